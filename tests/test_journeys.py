"""The whole chain on phantoms, from the command line's own functions, and what must never happen on the way."""

import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medldm.cli import COMMANDS, arguments_of, main
from medldm.cohort import Cohort
from medldm.commands import reface as refacing
from medldm.commands import surrogate as surrogates
from medldm.commands.cache_latents import cache_latents
from medldm.commands.evaluate import evaluate
from medldm.commands.generate import generate
from medldm.commands.reconstruct import reconstruct
from medldm.commands.reface import reface
from medldm.commands.surrogate import surrogate
from medldm.commands.train_autoencoder import train_autoencoder
from medldm.commands.train_diffusion import train_diffusion
from medldm.commands.train_restorer import train_restorer
from medldm.diffusion.canaries import Canaries
from medldm.diffusion.samplers.dpmpp import DpmPlusPlus
from medldm.diffusion.samplers.euler import Euler
from medldm.errors import UserError
from medldm.files import read_json, sha256, write_json
from medldm.metrics.base import Images
from medldm.models.latents import weights_digest
from medldm.models.lean import LeanAutoencoder
from medldm.models.nets import UNet
from medldm.operators.acquisitions import MissingBlock
from medldm.privacy import audit as auditing
from medldm.privacy import copies
from medldm.privacy.faces import Finding
from medldm.privacy.identity import Disguise
from medldm.privacy.membership import signals
from medldm.privacy.reface import Drawing
from medldm.report.viewer import bundle
from medldm.run import load_model, save_model
from medldm.training.budget import Privacy
from medldm.training.options import Training
from medldm.volume import read_volume

README = Path(__file__).parents[1] / "README.md"
LEAN = partial(LeanAutoencoder, widths=(8, 16))
NET = partial(UNet, channels=(16, 32), width=16)
BRIEF = Training(steps=6, batch=2, warm_up=2, validate_every=3, save_every=3)
FEW = DpmPlusPlus(4)


@pytest.fixture(scope="module")
def chain(phantom_cohort, tmp_path_factory):
    """Every step of the chain, in its folder."""
    root = tmp_path_factory.mktemp("chain")
    train_autoencoder(phantom_cohort.root, root / "autoencoder", model=LEAN, training=BRIEF)
    cache_latents(phantom_cohort.root, root / "autoencoder", root / "latents", windows=2)
    train_diffusion(root / "latents", root / "diffusion", net=NET, training=BRIEF)
    generate(root / "diffusion", 5, root / "generated", sampler=FEW, batch=5)
    evaluate(root / "evaluation", phantom_cohort.root, generated=root / "generated", autoencoder=root / "autoencoder")
    return root


def rows(path):
    return dict(line.split(",", 1) for line in path.read_text().splitlines()[1:])


def test_the_chain_leaves_what_the_design_says(chain):
    for run in ("autoencoder", "diffusion"):
        assert {"config.yaml", "model.yaml", "model.safetensors", "provenance.json", "history.csv"} <= {p.name for p in (chain / run).iterdir()}
    cohort = Cohort.load(chain / "generated")
    assert cohort.synthetic and len(cohort) == 5 and cohort.labels == {1: "brain", 2: "ventricles", 3: "lesion"}
    for case in cohort:
        image, label = read_volume(cohort.path(case.image)), read_volume(cohort.path(case.label), "label")
        assert image.shape == label.shape == case.shape == (16, 20, 16)
        assert image.data.abs().max() <= 1 and set(label.data.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
        assert case.covariates["sex"] in ("F", "M")
    scores = rows(chain / "evaluation" / "metrics.csv")
    assert {"psnr", "ssim", "ms_ssim", "dice_brain", "psnr_dct", "fidelity_r_volume_brain"} <= set(scores)
    page = (chain / "evaluation" / "report.html").read_text()
    assert "default-src 'none'" in page and "http://" not in page.replace("http://www.w3.org", "").replace(bundle(), "")


def test_lineage_links_every_folder_to_what_it_read(chain, phantom_cohort):
    latents, generated = Cohort.load(chain / "latents"), Cohort.load(chain / "generated")
    from medldm.files import read_json, sha256

    assert latents.parents == {"cohort": phantom_cohort.fingerprint(), "autoencoder": sha256(chain / "autoencoder" / "model.safetensors")}
    assert read_json(chain / "diffusion" / "provenance.json")["reads"]["latents"] == latents.fingerprint()
    assert generated.parents["diffusion"] == sha256(chain / "diffusion" / "model.safetensors")
    assert generated.parents["latents"] == latents.fingerprint() and generated.parents["cohort"] == phantom_cohort.fingerprint()


def test_a_sample_is_the_same_in_any_count_and_batch(chain, tmp_path):
    few = generate(chain / "diffusion", 3, tmp_path / "few", sampler=FEW, batch=2)
    many = Cohort.load(chain / "generated")
    for a, b in zip(few, many, strict=False):
        assert a.covariates == b.covariates
        difference = read_volume(few.path(a.image)).data - read_volume(many.path(b.image)).data
        assert difference.abs().max() <= 1e-4


def test_latents_are_not_padded_beyond_reason(chain, phantom_cohort, tmp_path):
    with pytest.raises(UserError, match=r"multiple=64 is more than the \d+ cells"):
        cache_latents(phantom_cohort.root, chain / "autoencoder", tmp_path / "latents", multiple=64)
    assert not (tmp_path / "latents").exists()


def test_memory_changes_nothing_but_the_way(chain, phantom_cohort, tmp_path, capsys):
    cache_latents(phantom_cohort.root, chain / "autoencoder", tmp_path / "latents", windows=2, memory="1GB")
    generate(chain / "diffusion", 2, tmp_path / "generated", sampler=FEW, memory="1GB")
    evaluate(tmp_path / "evaluation", phantom_cohort.root, autoencoder=chain / "autoencoder", memory="1GB")
    said = capsys.readouterr().out
    assert "encoding up to 16 x 20 x 16: slabs of" in said and "decoding up to 4 x 5 x 4: slabs of" in said
    for name in ("latents", "generated"):
        for found, wanted in zip(Cohort.load(tmp_path / name), Cohort.load(chain / name), strict=False):
            assert found.case == wanted.case
            if name == "latents":
                ours, theirs = load_file(tmp_path / name / found.image), load_file(chain / name / wanted.image)
                assert ours.keys() == theirs.keys() and all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in ours)
            else:
                assert torch.allclose(read_volume(tmp_path / name / found.image).data, read_volume(chain / name / wanted.image).data, atol=1e-4)
    ours, theirs = (float(rows(root / "evaluation" / "metrics.csv")["psnr"].split(",")[0]) for root in (tmp_path, chain))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_an_interrupted_generation_makes_only_what_is_missing(chain, tmp_path):
    whole = generate(chain / "diffusion", 4, tmp_path / "g", sampler=FEW, batch=4)
    lost = read_volume(whole.path(whole.cases[2].image)).data
    kept = (tmp_path / "g" / whole.cases[0].image).stat().st_mtime_ns
    for name in ("provenance.json", "cohort.json", "cohort.csv", whole.cases[2].image):
        (tmp_path / "g" / name).unlink()
    again = generate(chain / "diffusion", 4, tmp_path / "g", sampler=FEW, batch=4)
    assert (tmp_path / "g" / again.cases[0].image).stat().st_mtime_ns == kept
    assert again == whole and torch.equal(read_volume(again.path(again.cases[2].image)).data, lost)


def test_the_same_seed_gives_the_same_metrics_to_the_last_digit(chain, phantom_cohort, tmp_path):
    train_autoencoder(phantom_cohort.root, tmp_path / "autoencoder", model=LEAN, training=BRIEF)
    assert (tmp_path / "autoencoder" / "model.safetensors").read_bytes() == (chain / "autoencoder" / "model.safetensors").read_bytes()
    evaluate(tmp_path / "evaluation", phantom_cohort.root, generated=chain / "generated", autoencoder=tmp_path / "autoencoder")
    assert (tmp_path / "evaluation" / "metrics.csv").read_text() == (chain / "evaluation" / "metrics.csv").read_text()


def test_latents_are_white_over_the_training_cases(chain):
    from medldm.training.latents import load_latents

    latents, model = Cohort.load(chain / "latents"), load_model(chain / "latents")
    flat = torch.cat([model.whiten(z[None])[0].flatten(1) for case in latents.split("train") for z, _ in load_latents(latents.path(case.image))], 1)
    assert flat.mean(1).abs().max() < 1e-3 and (flat.std(1) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("draw", ["fixed", "fresh"])
def test_draws_are_whitened_as_draws(chain, tmp_path, draw):
    from medldm.training.latents import Latents

    cohort = Cohort.load(chain / "latents")
    train_diffusion(chain / "latents", tmp_path / "run", net=NET, draw=draw, training=BRIEF)
    model = load_model(tmp_path / "run").autoencoder
    cached = load_model(chain / "latents")
    noise = torch.tensor(cohort.facts["noise_variance"])
    assert torch.allclose(model.latent_std**2, cached.latent_std**2 + noise) and torch.equal(model.latent_mean, cached.latent_mean)
    drawn = Latents(cohort, torch.zeros(len(cohort), 0), model.whiten, tuple(cohort.facts["grid"]), 2, 0, draw)
    first, again, later = drawn[0, 0][0], drawn[0, 0][0], [drawn[step, slot][0] for step in range(1, 40) for slot in range(2)]
    assert torch.equal(first, again)
    assert any(torch.equal(first, other) for other in later) == (draw == "fixed")  # the same case and window comes again


def test_a_restorer_learns_from_images_and_their_decoded_latents(chain, phantom_cohort, tmp_path, capsys):
    options = dict(latents=chain / "latents", width=8, blocks=1, training=BRIEF)
    run = train_restorer(phantom_cohort.root, tmp_path / "restorer", **options)
    model = load_model(run)
    assert 0.01 < model.restorer.residual < 1 and f"{model.restorer.residual:.3f}" in capsys.readouterr().out
    x = torch.zeros(1, 1, 8, 9, 10)
    assert model.bind(x)(x, torch.tensor([0.1])).shape == x.shape
    assert model.anatomy.mean.std() > 0 and (model.anatomy.spectrum > 0).all()
    assert train_restorer(phantom_cohort.root, tmp_path / "restorer", **options) == run
    alone = train_restorer(phantom_cohort.root, tmp_path / "alone", **options | {"latents": None})
    assert torch.equal(load_model(alone).mean, model.mean)
    for latents, message in ((chain / "diffusion", "not an autoencoder"), (chain / "generated", "holds no model")):
        with pytest.raises(UserError, match=message):
            train_restorer(phantom_cohort.root, tmp_path / "wrong", **options | {"latents": latents})
    assert not (tmp_path / "wrong").exists()


def test_latents_take_part_in_a_reconstruction(chain, phantom_cohort, tmp_path):
    restorer = train_restorer(phantom_cohort.root, tmp_path / "restorer", width=8, blocks=1, training=BRIEF)
    options = dict(acquisition=MissingBlock(share=0.1), count=1)
    alone = reconstruct(phantom_cohort.root, restorer, tmp_path / "alone", **options)
    both = reconstruct(phantom_cohort.root, restorer, tmp_path / "both", run=chain / "diffusion", **options)
    pages = [(made.root / "report.html").read_text() for made in (alone, both)]
    assert ["restored, latent" in page for page in pages] == [False, True]
    images = [read_volume(made.path(made.cases[0].image)).data for made in (alone, both)]
    assert not torch.equal(*images) and all(image.isfinite().all() for image in images)
    assert both.parents["diffusion"] == sha256(chain / "diffusion" / "model.safetensors")


def test_latents_of_another_autoencoder_are_refused(chain, tmp_path, capsys):
    other = tmp_path / "latents"
    shutil.copytree(chain / "latents", other)
    model = load_model(other)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    for name in ("model.safetensors", "model.yaml"):
        (other / name).unlink()
    save_model(other, model)
    record = read_json(other / "provenance.json")  # that of the other model, as whoever mixes two folders brings it
    record["outputs"] |= {name: sha256(other / name) for name in ("model.safetensors", "model.yaml")}
    write_json(other / "provenance.json", record)
    message = refused(capsys, "train-diffusion", "--latents", other, "--out", tmp_path / "run")
    assert message.count("autoencoder") >= 2 and weights_digest(model)[:12] in message


def test_the_noise_behind_latents_is_found_again(chain, monkeypatch):
    model, asked = load_model(chain / "diffusion"), [{}]
    extents = [model.grid]
    noise = model.noise(0, 3)[None]
    z = model.sample(noise, asked, extents, Euler(40), 1.0)
    assert float((model.noise_of(z, asked, extents, steps=40).sign() == noise.sign()).float().mean()) > 0.9
    # data N(0, 4): the state at time t stays the same number of its standard deviations away, whose square is 4 (1 - t)^2 + t^2
    exact = lambda x, t: 4 * (1 - t.float()).view(-1, 1, 1, 1, 1) / (4 * (1 - t.float()) ** 2 + t.float() ** 2).view(-1, 1, 1, 1, 1) * x  # noqa: E731
    monkeypatch.setattr(model, "bound", lambda *arguments: exact)
    torch.testing.assert_close(model.noise_of(2 * noise, asked, extents, steps=400), noise, rtol=0.02, atol=0.0)


def test_a_key_marks_the_noise_and_nothing_else(chain, tmp_path):
    marked = [generate(chain / "diffusion", 2, tmp_path / name, sampler=FEW, key=tmp_path / "key.pem", batch=n) for n, name in ((1, "a"), (2, "b"))]
    plain = Cohort.load(chain / "generated")
    images = [read_volume(cohort.path(cohort.cases[1].image)).data for cohort in marked]
    torch.testing.assert_close(*images, rtol=0, atol=1e-4)
    assert marked[0].parents["key"] == marked[1].parents["key"]
    assert marked[0].cases[0].sha256 != plain.cases[0].sha256 and marked[0].cases[0].covariates == plain.cases[0].covariates
    assert plain.facts["release"] == marked[0].facts["release"] == "unreleased" and "key" not in plain.parents
    assert "key.pem" not in (tmp_path / "a" / "config.yaml").read_text()


def test_fixed_conditions_are_asked_for_in_every_case(chain, tmp_path):
    cohort = generate(chain / "diffusion", 2, tmp_path / "g", conditions={"age": 80.0, "sex": "F"}, sampler=FEW)
    assert {(case.covariates["age"], case.covariates["sex"]) for case in cohort} == {(80.0, "F")}


def refused(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def test_a_folder_of_the_wrong_kind_is_refused_by_name(chain, phantom_cohort, tmp_path, capsys):
    out = tmp_path / "out"
    assert "autoencoder" in refused(capsys, "generate", "--run", chain / "autoencoder", "--count", 2, "--out", out)
    assert "not an autoencoder" in refused(
        capsys, "cache-latents", "--cohort", phantom_cohort.root, "--autoencoder", chain / "diffusion", "--out", out
    )
    assert "not images" in refused(capsys, "train-autoencoder", "--cohort", chain / "latents", "--out", out)
    assert "not latents" in refused(capsys, "train-diffusion", "--latents", phantom_cohort.root, "--out", out)
    assert "no cohort.json" in refused(capsys, "train-autoencoder", "--cohort", tmp_path, "--out", out)
    assert "does not exist" in refused(capsys, "generate", "--run", tmp_path / "nowhere", "--count", 2, "--out", out)
    (tmp_path / "file").write_text("")
    assert "not a directory" in refused(capsys, "generate", "--run", chain / "diffusion", "--count", 1, "--out", tmp_path / "file" / "x")
    assert not out.exists()


def test_privacy_of_cohort_and_model_is_audited(chain, phantom_cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(auditing, "PLANTED", 2)
    monkeypatch.setattr(copies, "EVALUATIONS", 40)
    given = dict(reference=phantom_cohort.root, generated=chain / "generated")
    with pytest.raises(UserError, match="--privacy, which is not given"):
        evaluate(tmp_path / "none", **given, diffusion=chain / "diffusion")
    shutil.copytree(chain / "generated", tmp_path / "other")
    other = Cohort.load(tmp_path / "other")
    replace(other, parents={**other.parents, "diffusion": "f00d"}).save()
    with pytest.raises(UserError, match="was not made by"):
        evaluate(tmp_path / "none", phantom_cohort.root, tmp_path / "other", privacy=True, diffusion=chain / "diffusion")
    evaluate(tmp_path / "audited", **given, privacy=True, diffusion=chain / "diffusion")
    found, table = read_json(tmp_path / "audited" / "privacy.json"), rows(tmp_path / "audited" / "metrics.csv")
    assert found["cohort"]["verdict"] == found["model"]["verdict"] == "inconclusive", "two held-out patients say nothing"
    assert {"copy_share", "copies_found", "nndr_haar_v1", "closer_to_training_haar_v1", "membership_auc_loss", "membership_auc_redrawn"} <= set(table)
    page = (tmp_path / "audited" / "report.html").read_text()
    assert "Sharing the cohort: inconclusive" in page and "Sharing the model: inconclusive" in page
    assert "copy_similarity" in (tmp_path / "audited" / "cases.csv").read_text().splitlines()[0]


def test_planted_cases_are_looked_for_where_they_were_planted(chain, phantom_cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(auditing, "PLANTED", 2)
    monkeypatch.setattr(copies, "EVALUATIONS", 40)
    run, how = tmp_path / "run", Canaries(8, copies=2)
    train_diffusion(chain / "latents", run, net=NET, training=BRIEF, canaries=how)
    assert read_json(run / "provenance.json")["facts"]["canaries"] == {"count": 8, "copies": 2, "seed": 0}
    assert sha256(run / "model.safetensors") != sha256(chain / "diffusion" / "model.safetensors")
    generate(run, 2, tmp_path / "generated", sampler=FEW)
    evaluate(tmp_path / "audited", phantom_cohort.root, tmp_path / "generated", privacy=True, diffusion=run)
    table = rows(tmp_path / "audited" / "metrics.csv")
    assert {"canary_auc_loss", "canary_auc_sima", "canary_epsilon"} <= set(table) and ",8" in table["canary_epsilon"]
    assert "Attack on planted cases: loss" in (tmp_path / "audited" / "report.html").read_text()
    with pytest.raises(UserError, match=r"canaries.copies"):
        train_diffusion(chain / "latents", tmp_path / "none", training=BRIEF, privacy=Privacy(8.0), canaries=how)
    assert not (tmp_path / "none").exists()


def test_attacks_see_a_case_alike_whatever_is_beside_it(chain, phantom_cohort):
    model, cohort = load_model(chain / "diffusion").eval(), Cohort.load(phantom_cohort.root)
    whole = Images(cohort.split("test"))
    part = whole.take(1, 3)
    found = signals(model, part, 0)
    assert found == signals(model, whole, [case.case for case in whole.cases].index(part.cases[0].case))
    assert all(-1e3 < value < 0 for value in found.values())


def test_faces_are_drawn_where_there_are_some_and_the_rest_stays(chain, phantom_cohort, tmp_path, monkeypatch):
    names = [case.case for case in phantom_cohort]
    mask = np.zeros((16, 20, 16), bool)
    mask[4:12, 14:, :8] = True
    statuses = iter(["removed", "already defaced", "poor registration", *["removed"] * (len(names) - 3)] * 2)
    monkeypatch.setattr(refacing, "look", lambda volume: Finding(next(statuses), matrix=((1.0,),)))
    monkeypatch.setattr(refacing, "region", lambda shape, affine, matrix: mask)
    given, how = (phantom_cohort.root, chain / "diffusion", tmp_path / "out"), Drawing(steps=2)
    with pytest.raises(UserError, match=f"1 of {len(names)} cases: {names[2]} may show a face"):
        reface(*given, how)
    assert not (tmp_path / "out").exists()
    made = reface(*given, how, skip_bad=True)
    assert [case.status for case in made][:3] == ["ok", "ok", "face"] and made.facts["refaced"]["cases"] == [names[0], *names[3:]]
    assert made.cases[1] == phantom_cohort.cases[1] and not (tmp_path / "out" / phantom_cohort.cases[2].image).exists()
    before, after = (read_volume(cohort.path(cohort.cases[0].image)).data[0].numpy() for cohort in (phantom_cohort, made))
    assert np.array_equal(before[~mask], after[~mask]) and np.abs(before - after)[mask].max() > 0.01
    made.check_files(lambda steps, title: steps)
    assert made.parents["cohort"] == phantom_cohort.fingerprint() and not made.synthetic
    monkeypatch.setattr(refacing, "look", None)
    assert reface(*given, how, skip_bad=True) == Cohort.load(tmp_path / "out"), "what is finished is not searched again"
    with pytest.raises(UserError, match="Prepare it with --spacing"):
        coarse = replace(phantom_cohort, root=tmp_path / "coarse", cases=tuple(replace(c, spacing=(9.0,) * 3) for c in phantom_cohort))
        coarse.save()
        reface(tmp_path / "coarse", chain / "diffusion", tmp_path / "other")


def test_surrogates_stand_for_cases_and_only_the_links_lead_back(chain, phantom_cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "EVALUATIONS", 40)
    how = Disguise(group=2, attempts=1, steps=2, steering=None, likeness=0.2)
    given = (phantom_cohort.root, chain / "diffusion")
    made = surrogate(*given, tmp_path / "made", how, links=tmp_path / "links.csv")
    pairs = rows(tmp_path / "links.csv")
    assert set(pairs) == {case.case for case in phantom_cohort} and sorted(filter(None, pairs.values())) == [case.case for case in made]
    assert made.synthetic and made.facts["release"] == "unreleased" and len(made) > 0
    for case in made:
        image, label = read_volume(made.path(case.image)), read_volume(made.path(case.label), "label")
        assert image.shape == label.shape == case.shape and torch.isfinite(image.data).all()
    written = "".join(path.read_text() for path in (tmp_path / "made").rglob("*") if path.suffix in (".csv", ".json"))
    assert not [case.case for case in phantom_cohort if case.case in written or case.patient in written]
    with pytest.raises(UserError, match="exists"):
        surrogate(*given, tmp_path / "again", how, links=tmp_path / "links.csv")
    with pytest.raises(UserError, match="among the surrogates"):
        surrogate(*given, tmp_path / "again", how, links=tmp_path / "again" / "links.csv")
    with pytest.raises(UserError, match="no usable case 'nobody'"):
        surrogate(*given, tmp_path / "again", how, cases=["nobody"])
    names = [case.case for case in phantom_cohort][:2]
    monkeypatch.setattr(surrogates, "distinct", lambda catalogue, *rest: list(range(len(catalogue))))  # tested on its own
    chosen = surrogate(*given, tmp_path / "chosen", how, names, tmp_path / "chosen.csv", chain / "generated")
    catalogue = Cohort.load(chain / "generated")

    def digest(cohort, case):
        return read_volume(cohort.path(case.image)).data.numpy().tobytes()

    assert len(chosen) == 2 and {digest(chosen, case) for case in chosen} <= {digest(catalogue, case) for case in catalogue}
    assert set(rows(tmp_path / "chosen.csv")) == set(names)
    with pytest.raises(UserError, match="5 cases, and 10 are needed"):
        surrogate(*given, tmp_path / "more", how, catalogue=chain / "generated")
    monkeypatch.setattr(surrogates, "distinct", lambda *given: [0])
    with pytest.raises(UserError, match="1 cases that are like no patient, and 2 are needed"):
        surrogate(*given, tmp_path / "few", how, names, catalogue=chain / "generated")


def test_patients_that_a_model_may_have_seen_are_not_evaluated_on(chain, phantom_source, tmp_path, capsys):
    main(["prepare", "--source", str(phantom_source), "--out", str(tmp_path / "other"), "--seed", "5"])
    for option in (["--autoencoder", chain / "autoencoder"], ["--generated", chain / "generated"]):
        assert "another cohort" in refused(capsys, "evaluate", "--reference", tmp_path / "other", *option, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_that_names_a_case_reaches_the_tracking_store(chain, phantom_cohort):
    names = [case.case.encode() for case in phantom_cohort]
    stored = [p for p in (chain / "mlflow_artifacts").rglob("*") if p.is_file()]
    assert {"curves.png", "samples.png", "metrics.csv"} == {p.name for p in stored}
    assert not any(name in p.read_bytes() for name in names for p in [*stored, chain / "mlflow.db"])


def test_an_autoencoder_of_another_cohort_is_refused(chain, phantom_source, tmp_path, capsys):
    assert main(["prepare", "--source", str(phantom_source), "--out", str(tmp_path / "other"), "--seed", "9"]) == 0
    error = refused(capsys, "cache-latents", "--cohort", tmp_path / "other", "--autoencoder", chain / "autoencoder", "--out", tmp_path / "out")
    assert "another cohort" in error and not (tmp_path / "out").exists()


def test_a_damaged_model_is_refused(chain, tmp_path, capsys):
    import shutil

    shutil.copytree(chain / "diffusion", tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "sha256" in refused(capsys, "generate", "--run", tmp_path / "run", "--count", 1, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_finished_folder_is_never_overwritten(chain, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in (chain / "generated").rglob("*.nii.gz")}
    arguments = ["generate", "--run", chain / "diffusion", "--count", 6, "--out", chain / "generated"]
    assert "count: 5 there, 6 now" in refused(capsys, *arguments)
    assert {p: p.stat().st_mtime_ns for p in (chain / "generated").rglob("*.nii.gz")} == before


WISHES = [
    ["--conditions", '{"weight": 3.0}'],
    ["--conditions", '{"sex": "X"}'],
    ["--conditions", '{"age": .nan}'],
    ["--count", "0"],
    ["--grain", "-1"],
    ["--sampler.steps", "0"],
]


@pytest.mark.parametrize("option", WISHES, ids=str)
def test_impossible_wishes_are_refused_before_anything_is_written(chain, tmp_path, capsys, option):
    refused(capsys, "generate", "--run", chain / "diffusion", "--out", tmp_path / "out", "--count", 2, *option)
    assert not (tmp_path / "out").exists()


def readme_commands():
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("medldm ")]


@pytest.mark.parametrize("line", readme_commands() or ["the README shows no command"])
def test_every_command_of_the_readme_is_one(line):
    _, name, *options = shlex.split(line, comments=True)
    assert name in COMMANDS
    assert arguments_of(name, options) is not None
