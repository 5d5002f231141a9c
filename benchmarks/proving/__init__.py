"""The proving ground: made tables of every kind that real ones have, plain baselines and peers to beat on them."""
