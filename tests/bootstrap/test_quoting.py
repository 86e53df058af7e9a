"""What is quoted is read back exactly, by the reader it was quoted for."""

import subprocess

import pytest
from clearml_agent.external.pyhocon import ConfigFactory
from hypothesis import given
from hypothesis import strategies as st

from gpu_autoscaler.bootstrap.quoting import (
    end_marker,
    environment_line,
    exec_word,
    hocon_string,
    refuse_unwritable,
)
from tests.bootstrap.systemd import environment_file, exec_words

NASTY = "a'b\"$(reboot)\\n#\n\r\t`x` %d ${HOME} $$ \\ ; é \x01\x7f\u2028"


def _writable(text: str) -> bool:
    try:
        refuse_unwritable("it", text)
    except ValueError:
        return False
    return True


ANY_TEXT = st.one_of(
    st.text(alphabet="ab'\"\\$`%{}()#;=, \n\r\té\x01", max_size=20),
    st.text(max_size=20).filter(_writable),
    st.just(NASTY),
)


@given(ANY_TEXT)
def test_the_agents_own_parser_reads_a_hocon_string_back(text: str) -> None:
    conf = f"before: 1\nkey: {hocon_string(text)}\nlist: [{hocon_string(text)}]\nafter: 2"
    read = ConfigFactory.parse_string(conf)
    assert read["key"] == text
    # The parser loses an empty item of a list; no argument of docker is empty.
    assert read["list"] == ([text] if text else [])
    assert (read["before"], read["after"]) == (1, 2)


@given(ANY_TEXT)
def test_systemd_reads_an_environment_line_back(text: str) -> None:
    content = f'A="1"\n{environment_line("SECRET", text)}\nB="2"\n'
    assert environment_file(content) == {"A": "1", "SECRET": text, "B": "2"}


def test_a_shell_reads_an_environment_line_alike() -> None:
    script = f'{environment_line("SECRET", NASTY)}\nprintf %s "$SECRET"'
    shell = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert shell.stdout.decode() == NASTY


@given(ANY_TEXT.filter(bool))
def test_systemd_reads_an_exec_word_back(text: str) -> None:
    line = f"agent --queue {exec_word(text)} --foreground"
    assert line.isprintable() or not text.isprintable()
    assert "\n" not in line
    assert exec_words(line) == ["agent", "--queue", text, "--foreground"]


def test_a_plain_word_stays_plain() -> None:
    assert exec_word("H100-1-80G") == "H100-1-80G"


@given(st.lists(ANY_TEXT | st.text("END_OFIL\n", max_size=30)))
def test_an_end_marker_occurs_in_no_content(contents: list[str]) -> None:
    assert all(end_marker(contents) not in content for content in contents)


def test_an_end_marker_avoids_itself() -> None:
    assert end_marker(["END_OF_FILE\nEND_OF_FILE__\n"]) == "END_OF_FILE___"


@pytest.mark.parametrize("char", ["\0", "\ud800", "\ufdd0", "\ufffe", "\U0001ffff"])
def test_what_cannot_be_written_is_refused_without_being_repeated(char: str) -> None:
    with pytest.raises(ValueError, match=f"the git password holds .*U\\+{ord(char):04X}") as error:
        refuse_unwritable("the git password", f"hunter2{char}")
    assert "hunter2" not in str(error.value)
