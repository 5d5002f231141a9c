"""`nas completion`: what a shell offers is what there is."""

import shutil
import subprocess

import pytest

from nas.commands import cli
from strategies import GRADIENT_STRATEGIES, STRATEGIES

TRY = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_nas
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    text = cli._answer(["completion", "bash"])
    path = tmp_path_factory.mktemp("bash") / "nas.bash"
    path.write_text(text)
    return path


def offered(script, *words: str) -> set[str]:
    done = subprocess.run(["bash", "-c", TRY, "bash", script, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_is_offered_commands_flags_and_names(script):
    assert offered(script, "nas", "") >= {*cli._parsers()[1]}
    assert offered(script, "nas", "pre") == {"predict", "predictors"}
    assert offered(script, "nas", "search", "--strategy", "") == {*STRATEGIES, *GRADIENT_STRATEGIES}
    assert "--training.learning-rate" in offered(script, "nas", "search", "--training.l")
    assert offered(script, "nas", "export", "--f") == {"--format"}
    assert offered(script, "nas", "predictors", "e") == {"evaluate", "export"}


def test_another_shell_is_refused_in_one_line(capsys):
    assert cli.main(["completion", "cmd"]) == 2
    assert "'cmd'" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
