"""The adapters, in the order in which they run."""

from collections.abc import Callable

from transformers import PreTrainedModel

from pipeline.model.adapters.complex_rotary import use_real_parts
from pipeline.model.adapters.experts import adapt_experts
from pipeline.model.adapters.languages import choose_language
from pipeline.model.adapters.latent import absorb_expansion
from pipeline.model.adapters.positions import give_positions
from pipeline.model.adapters.sparsity import compute_quantiles
from pipeline.model.adapters.temperature import scale_by_own_position
from pipeline.model.adapters.windows import replace_tables
from pipeline.model.states.griffin import keep_block_states
from pipeline.model.states.recurrences import keep_states

# Each looks for a property of the model's modules and does nothing where it is absent. It changes this model's modules
# only, never a class or a function of transformers: the original runs beside it as the reference.
ADAPTERS: tuple[Callable[[PreTrainedModel], None], ...] = (
    use_real_parts,
    scale_by_own_position,
    compute_quantiles,
    choose_language,
    absorb_expansion,
    adapt_experts,
    replace_tables,
    give_positions,
    keep_states,
    keep_block_states,
)


def adapt(model: PreTrainedModel) -> None:
    """Run every adapter on a model whose attention implementation is set; changes its modules in place."""
    for adapter in ADAPTERS:
        adapter(model)
