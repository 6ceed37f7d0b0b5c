"""Stage two: frozen features in, a trained fusion head and its scores out.

A recipe (`recipe`) names feature stores (`sources`, `data`) and a head: `fusion` is MambaVL's, `baselines`
are those it is compared with, `head` is what all of them share. `train` writes a run folder (`run`); its
scores (`evaluate`, `metrics`) end in a result (`result`); `sweep` trains a grid of runs; `report` puts runs
on one page. `scan` computes the selective scan. Training needs its stores and nothing else: labels, splits
and class names are in them.
"""
