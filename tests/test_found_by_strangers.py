"""What fresh eyes found: pages whose settings were one line, files of tars that nobody counted, samples that were left out, damaged lines."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import Aegen
from PIL import Image

TINY = ("--data", "digits", "--size", 8, "--arch", "mlp", "--arch.hidden", "[8]", "--steps", 2, "--batch-size", 16)


def test_settings_of_a_page_stand_a_line_each(aegen: Aegen) -> None:
    aegen("train", *TINY, "--run-dir", "r").worked()
    with open("r/metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"split": "train", "step": "x"}\n{"split": ')
    said = aegen("report", "r", "--no-evaluate", "-o", "page.html").worked()
    page = Path("page.html").read_text(encoding="utf-8")
    lines = page[page.index("<pre>[arch]") :].splitlines()
    assert lines[:3] == ["<pre>[arch]", "name = &quot;mlp&quot;", "hidden = [8]"]
    assert "r: 1 line of metrics.jsonl is damaged and left out" in said.err


def test_a_file_without_an_ending_in_a_tar_is_counted(aegen: Aegen) -> None:
    stored = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stored, "png")
    with tarfile.open("s.tar", "w") as archive:
        for name in [*(f"{i}.png" for i in range(6)), "noext"]:
            member = tarfile.TarInfo(name)
            member.size = len(stored.getvalue())
            archive.addfile(member, io.BytesIO(stored.getvalue()))
    said = aegen("train", *TINY, "--data", "s.tar", "--batch-size", 2, "--run-dir", "r").worked()
    assert "1 image is left out: s.tar, noext (its name has no ending that says what it is)" in said.err


def test_samples_beyond_the_colours_are_told(aegen: Aegen) -> None:
    Path("bands").mkdir()
    for number in range(4):
        pixels = np.full((8, 8, 5), 40 * number, np.uint8)
        tifffile.imwrite(f"bands/{number}.tif", pixels, photometric="minisblack", planarconfig="contig")
    said = aegen("train", *TINY, "--data", "bands", "--batch-size", 2, "--run-dir", "r").worked()
    assert "4 images hold more samples a pixel than colours and opacity, of which the rest is left out" in said.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_while_the_command_line_is_imported_has_its_sentence() -> None:
    code = (
        "import sys, time, aegen.__main__ as m\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'aegen.cli':\n"
        "            print('here', flush=True)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "m.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted; nothing is left half-written\n")
