"""What pmc brings to xDSL's own tools (`xdsl-opt`, `xdsl-gui`), which find it by the entry point `xdsl.universe`."""

from xdsl.universe import Universe

from pmc.compiler.context import dialect_factories
from pmc.compiler.pipelines import pass_factories

PMC_UNIVERSE = Universe(all_dialects=dialect_factories(), all_passes=dict(pass_factories()))
