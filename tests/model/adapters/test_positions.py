"""Tables of positions read by each row's own."""

import torch

from pipeline.model.adapters.positions import give_positions
from pipeline.model.cache import StaticCache, running
from tests.support.architectures import wider_model


def test_rows_of_the_running_forward() -> None:
    """Within a forward Bart's table gives each row its own positions; outside it counts as before."""
    model = wider_model("bart")
    table = model.get_decoder().embed_positions
    ids = torch.zeros(2, 3, dtype=torch.int64)
    before = table(ids)
    give_positions(model)
    assert torch.equal(table(ids), before)
    position_ids = torch.tensor([[4, 5, 6], [0, 1, 2]])
    token = running.set(StaticCache([], torch.tensor([4, 0]), position_ids))
    try:
        assert torch.equal(table(ids), table.weight[position_ids + 2])
    finally:
        running.reset(token)
