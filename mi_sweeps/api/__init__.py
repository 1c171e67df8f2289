"""The Python interface: `import mi_sweeps as mi`. Every name here is also in `mi_sweeps`."""

from mi_sweeps.api.output import Output, open
from mi_sweeps.api.run import Run
from mi_sweeps.api.sweep import Plan, plan

__all__ = ["Output", "Plan", "Run", "open", "plan"]
