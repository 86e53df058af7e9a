"""systemd's reading of an EnvironmentFile and of an ExecStart line, as its manual tells it."""

import re


def environment_file(content: str) -> dict[str, str]:
    """`systemd.exec(5)`, EnvironmentFile: comments, shell-like quotes, last assignment wins."""
    values: dict[str, str] = {}
    position = 0
    while position < len(content):
        if content[position] in "#;\n":
            position = content.index("\n", position) + 1
            continue
        name, position = _until(content, position, "=")
        values[name], position = _value(content, position)
    return values


def _value(content: str, position: int) -> tuple[str, int]:
    assert content[position] == '"', "the bootstrap writes nothing but double-quoted values"
    text = ""
    position += 1
    while (char := content[position]) != '"':
        if char == "\\" and content[position + 1] in '"\\`$':
            position += 1
            char = content[position]
        text += char
        position += 1
    assert content[position + 1] == "\n", "something follows the closing quote"
    return text, position + 2


def _until(content: str, position: int, end: str) -> tuple[str, int]:
    stop = content.index(end, position)
    return content[position:stop], stop + 1


def exec_words(line: str) -> list[str]:
    """`systemd.service(5)`, command lines: words, C escapes, `%` specifiers, `$` variables."""
    words = re.findall(r'"(?:[^"\\]|\\.)*"|[^\s"\\]+', line)
    assert " ".join(words) == line, "quotes that do not pair"
    return [_expand(_unescape(word)) for word in words]


def _unescape(word: str) -> str:
    if not word.startswith('"'):
        assert word != ";", "starts another command"
        return word
    simple = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"'}
    return re.sub(
        r"\\(?:x([0-9a-f]{2})|(.))",
        lambda m: chr(int(m[1], 16)) if m[1] else simple[m[2]],
        word[1:-1],
    )


def _expand(word: str) -> str:
    assert not re.search(r"(?<!%)(%%)*%(?!%)", word), f"a specifier in {word!r}"
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", word), f"a variable in {word!r}"
    return word.replace("%%", "%").replace("$$", "$")
