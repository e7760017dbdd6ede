"""The Attention operator of the portable graph."""

MASK, LENGTHS = 3, 6  # its inputs attn_mask and nonpad_kv_seqlen
