"""mi-sweeps: sweeps that show how circuits form and change during training.

From Python (docs/python.md):

    import mi_sweeps as mi

    out = mi.open("outputs")
    run = out.select(seed=0).run("3f2a")
    model = run.model(64)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mi_sweeps.api import Output, Plan, Run, open, plan
    from mi_sweeps.errors import UserError

__version__ = "0.1.0"

__all__ = ["Output", "Plan", "Run", "UserError", "open", "plan"]


def __getattr__(name: str) -> Any:
    """Imports the names of `mi_sweeps.api` on first use, so that the command line starts without pandas."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mi_sweeps import api, errors

    return errors.UserError if name == "UserError" else getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
