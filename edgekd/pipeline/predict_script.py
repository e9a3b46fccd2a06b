"""The script that every bundle carries: run the artifact without edgekd."""

PREDICT_SCRIPT = '''"""python predict.py IMAGE...: the class of each. Needs onnxruntime, numpy, pillow."""
import json, os, pathlib, sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import numpy as np, onnxruntime
from PIL import Image, ImageOps

here = pathlib.Path(__file__).resolve().parent
spec = json.loads((here / "preprocess.json").read_text())
labels = (here / "labels.txt").read_text().splitlines()
session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "nearest": Image.NEAREST}
for name in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(name)).convert("L" if len(spec["mean"]) == 1 else "RGB")
    image = image.resize(spec["size"][::-1], filters[spec["resize"]])
    x = np.asarray(image).reshape(1, *spec["size"], -1)
    if session.get_inputs()[0].type != "tensor(uint8)":  # else the graph normalizes by itself
        x = x.astype(np.float32) * np.float32(spec["scale"])
        x = ((x - np.float32(spec["mean"])) / np.float32(spec["std"])).transpose(0, 3, 1, 2)
    logits = session.run(None, {session.get_inputs()[0].name: x})[0][0]
    p = np.exp(logits - logits.max())
    print(name, labels[int(logits.argmax())], f"{p.max() / p.sum():.3f}")
'''
