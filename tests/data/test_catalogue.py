import subprocess
import sys

import pytest

from edgekd.data.catalogue import SOURCES

HEAVY = ("torch", "sklearn", "onnx", "onnxruntime", "PIL.JpegImagePlugin")


@pytest.mark.parametrize("name", SOURCES.names())
def test_every_key_of_a_source_is_described(name: str) -> None:
    source = SOURCES.load(name)
    assert source.__doc__
    missing = [key for key, field in source.model_fields.items() if not field.description]
    assert not missing


def test_loading_every_source_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom edgekd.data.catalogue import SOURCES\nimport edgekd.data.inspect\n"
        "[SOURCES.load(name) for name in SOURCES.names()]\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
