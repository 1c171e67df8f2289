"""What `mi-sweeps` does, from Python: `import mi_sweeps as mi`. Every name here is one of `mi_sweeps` too."""

from mi_sweeps.api.output import Output, open
from mi_sweeps.api.plan import Plan, plan
from mi_sweeps.api.run import Run

__all__ = ["Output", "Plan", "Run", "open", "plan"]
