// Each .viewer shows one volume of its data at a time; nothing is loaded from elsewhere.
(function () {
  const COLUMNS = { R: 0, G: 1, B: 2 };

  // A table of colours for label values 0 to the largest; 0 and values without a colour are clear.
  function table(colours) {
    const values = Object.keys(colours).map(Number);
    const cm = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
    for (const value of values) {
      const parts = [1, 3, 5].map((at) => parseInt(colours[value].slice(at, at + 2), 16));
      for (const [name, at] of Object.entries(COLUMNS)) cm[name].push(parts[at]);
      cm.A.push(255);
      cm.I.push(value);
      cm.labels.push(String(value));
    }
    return cm;
  }

  async function start(box) {
    const data = JSON.parse(box.querySelector("script").textContent);
    const [canvas, choice, opacity, note] = ["canvas", "select", "input", "output"].map((name) => box.querySelector(name));
    if (!canvas.getContext("webgl2")) {
      note.value = "This browser has no WebGL 2, which the viewer needs.";
      return;
    }
    const nv = new niivue.Niivue({ backColor: [0, 0, 0, 1], dragAndDropEnabled: false, loadingText: "", show3Dcrosshair: true, logLevel: "error" });
    await nv.attachToCanvas(canvas, false);
    nv.setRadiologicalConvention(true);
    nv.opts.sagittalNoseLeft = true;
    nv.opts.multiplanarShowRender = 1; // always
    nv.opts.multiplanarLayout = 2; // a grid
    nv.opts.crosshairWidthUnit = "percent";
    nv.opts.crosshairWidth = 0.3;
    nv.setCrosshairColor([0.25, 0.65, 1, 0.8]);
    nv.setSliceType(nv.sliceTypeMultiplanar);
    nv.onLocationChange = (place) => {
      note.value = place.mm.slice(0, 3).map((x) => x.toFixed(0)).join(", ") + " mm";
    };

    async function show(index) {
      while (nv.volumes.length) nv.removeVolumeByIndex(0);
      const parts = [{ base64: data.images[index], name: "image.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255 }];
      if (data.labels[index]) parts.push({ base64: data.labels[index], name: "label.nii.gz", opacity: Number(opacity.value) });
      for (const part of parts) {
        const volume = await niivue.NVImage.loadFromBase64(part);
        if (part.name === "label.nii.gz") volume.setColormapLabel(table(data.colours));
        nv.addVolume(volume);
      }
      box.dataset.shown = data.names[index];
    }

    data.names.forEach((name, index) => choice.add(new Option(name, index)));
    choice.onchange = () => show(choice.selectedIndex);
    opacity.oninput = () => nv.volumes.length > 1 && nv.setOpacity(1, Number(opacity.value));
    opacity.parentElement.hidden = !data.labels.some(Boolean);
    box.querySelectorAll("button").forEach((button) => {
      button.onclick = () => {
        const step = Number(button.value);
        choice.selectedIndex = (choice.selectedIndex + step + data.names.length) % data.names.length;
        show(choice.selectedIndex);
      };
    });
    await show(0);
  }

  document.querySelectorAll(".viewer").forEach((box) => {
    start(box).catch((error) => {
      box.querySelector("output").value = "The viewer could not start: " + error.message;
      console.error(error);
    });
  });
})();
