"""What `mi-sweeps` does, from Python: `import mi_sweeps as mi`. Every name here is one of `mi_sweeps` too."""

from mi_sweeps.api.output import Output, open
from mi_sweeps.api.run import Run
from mi_sweeps.api.sweep import Plan, plan

__all__ = ["Output", "Plan", "Run", "open", "plan"]
