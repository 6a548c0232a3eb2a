"""The command line, a thin layer over the library. `anytime-keras help` lists the commands."""

import copy
import importlib
import sys
import time

from absl import flags

from anytime_keras import _quiet
from anytime_keras._errors import check_known
from anytime_keras.version import __version__

# Each command is a module here with a docstring, `FLAGS` (its own `absl.flags.FlagValues`) and `run(flags, arguments)`.
COMMANDS = ("demo", "train", "evaluate", "predict", "finetune", "serve", "report", "zoo", "reproduce")
# When the command started, in seconds of `time.monotonic`. Includes the process's imports, which take several seconds.
begin = None


def main(argv=None):
    """Runs `anytime-keras COMMAND --flag=value ...`; exits with a message if the command line is invalid."""
    global begin
    begin = _quiet.STARTED if argv is None else time.monotonic()
    argv = list(sys.argv if argv is None else argv)
    name = argv[1] if len(argv) > 1 else "help"
    if name in ("help", "-h", "--help"):
        print(_usage())
        return
    if name in ("--version", "version"):
        print(__version__)
        return
    try:
        check_known([name], COMMANDS, "Unknown command '{}'.")
        command = importlib.import_module(f"anytime_keras.commands.{name}")
        if {"-h", "--help"} & set(argv[2:]) or argv[2:] == ["help"]:
            print(f"anytime-keras {name}: {command.__doc__}\n{command.FLAGS.get_help()}")
            return
        values = copy.deepcopy(command.FLAGS)  # so that each command of a process starts from the defaults
        command.run(values, values(argv[1:])[1:])
    except (ValueError, OSError, ImportError, flags.Error) as error:
        sys.exit(f"anytime-keras {name}: {error}" if name in COMMANDS else f"anytime-keras: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _usage():
    lines = ["usage: anytime-keras COMMAND [--flag=value ...]", ""]
    lines.append("Commands (`anytime-keras COMMAND --help` for its flags):")
    for name in COMMANDS:
        first = importlib.import_module(f"anytime_keras.commands.{name}").__doc__.strip().splitlines()[0]
        lines.append(f"  {name:<10}{first}")
    return "\n".join(lines)
