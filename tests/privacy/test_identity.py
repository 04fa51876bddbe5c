"""Surrogates and how well they can be linked: groups, catalogues and figures with known answers."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from medldm.errors import UserError
from medldm.privacy import copies
from medldm.privacy.catalogue import distinct, retrieved
from medldm.privacy.identity import Disguise, grouped
from medldm.privacy.linkage import Linkage, chance


class Numbers:
    """Features that are given."""

    name = "numbers"

    def __init__(self, rows):
        self.rows = rows

    def cases(self, images):
        return self.rows[id(images)]


def test_groups_hold_k_patients_of_one_kind_and_each_case_once():
    rng = np.random.default_rng(0)
    patients = [f"p{i // 2}" for i in range(60)]  # two cases each
    kinds = [("F",) if i // 2 < 17 else ("M",) for i in range(60)]
    groups = grouped(rng.normal(size=(60, 5)), patients, kinds, 5)
    cases = sorted(index for group in groups for index in group)
    assert cases == list(range(60))
    for group in groups:
        people = {patients[i] for i in group}
        assert 5 <= len(people) < 10 and len({kinds[i] for i in group}) == 1
        assert len(group) == 2 * len(people), "cases of a patient are together"


def test_groups_are_of_patients_who_are_alike():
    centres = np.repeat(np.array([[0.0, 0], [50, 0], [0, 50]]), 5, axis=0)
    rows = centres + np.random.default_rng(0).normal(size=(15, 2))
    groups = grouped(rows, [str(i) for i in range(15)], [()] * 15, 5)
    assert sorted(map(sorted, groups)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]


def test_a_rare_kind_is_in_no_group_and_too_few_patients_are_refused():
    rows, patients = np.zeros((12, 2)), [str(i) for i in range(12)]
    groups = grouped(rows, patients, [("rare",) if i < 3 else ("usual",) for i in range(12)], 4)
    assert sorted(i for group in groups for i in group) == list(range(3, 12))
    with pytest.raises(UserError, match="13 patients that a group needs; there are 12"):
        grouped(rows, patients, [()] * 12, 13)


def test_settings_that_disguise_nothing_are_refused():
    for wrong in (dict(group=1), dict(first=0.0), dict(first=1.0), dict(attempts=0), dict(likeness=0.0), dict(later=-0.1)):
        with pytest.raises(UserError):
            Disguise(**wrong)


def test_linkage_knows_perfect_attacks_and_blind_ones():
    truth = np.arange(30)
    sure = Linkage(np.eye(30), truth)
    assert (sure.ranks == 1).all() and sure.auc() == 1.0 and sure.equal_error() == 0.0 and sure.answer()[0] == "linked"
    blind = Linkage(np.random.default_rng(0).normal(size=(30, 30)), truth)
    assert abs(blind.auc() - 0.5) < 0.12 and abs(blind.equal_error() - 0.5) < 0.12
    names = {score.name: score for score in blind.scores("noise")}
    assert names["link_auc_noise"].low < 0.5 < names["link_auc_noise"].high
    assert names["rank1_noise"].n == 30 and "chance 0.033" in names["rank1_noise"].on


def test_the_auc_of_linkage_is_that_of_its_pairs():
    rng = np.random.default_rng(0)
    linkage = Linkage(rng.integers(0, 4, (9, 7)).astype(float), rng.integers(0, 7, 9))
    pairs = []
    for row, own in zip(linkage.similarity, linkage.truth, strict=True):
        pairs += [(row[own] > other) + 0.5 * (row[own] == other) for i, other in enumerate(row) if i != own]
    assert linkage.auc() == pytest.approx(np.mean(pairs))


def test_blind_attacks_are_answered_with_not_linked_and_small_galleries_are_underpowered():
    rng = np.random.default_rng(1)
    answers = [Linkage(rng.normal(size=(60, 60)), np.arange(60)).answer()[0] for _ in range(100)]
    assert answers.count("not linked") >= 90
    assert Linkage(np.eye(9), np.arange(9)).answer()[0] == "underpowered"
    assert chance(60, 60) == pytest.approx(3 / 60)


class Textures:
    """Images of noise without a file; a pair of seeds is mostly the second one."""

    def __init__(self, seeds):
        self.seeds, self.patients = seeds, [str(seed) for seed in seeds]
        self.cases = [SimpleNamespace(shape=(24, 22, 26)) for _ in seeds]

    def __len__(self):
        return len(self.seeds)

    def spacing(self, index):
        return (1.0, 1.0, 1.0)

    def image(self, index):
        one, other = self.seeds[index] if isinstance(self.seeds[index], tuple) else (self.seeds[index],) * 2
        noise = [ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 22, 26)), 1.5) for seed in (one, other)]
        return (0.1 * noise[0] + 0.9 * noise[1])[None].astype(np.float32)


def test_a_catalogue_loses_what_is_like_a_patient(monkeypatch):
    monkeypatch.setattr(copies, "EVALUATIONS", 40)
    assert distinct(Textures([100, (101, 3), 5]), Textures(list(range(6))), likeness=0.15) == [0]


def test_retrieval_gives_each_case_another_surrogate_and_the_nearest_together():
    real, catalogue = [None] * 3, [None] * 4
    features = Numbers({id(real): np.array([[0.0], [1.0], [5.0]]), id(catalogue): np.array([[0.9], [5.2], [0.4], [99.0]])})
    assert retrieved(catalogue, real, [features]) == [2, 0, 1]
