"""MambaVL: fuse video with questions from frozen features.

Stage one (`mambavl.extract`) runs frozen encoders over a data set once and fills feature stores
(`mambavl.cache`); stage two (`mambavl.fuse`) trains light heads from the stores alone, in fast sweeps. Five
names to start with:

    mambavl.cache.open_store(path)             a feature store, read-only and memory-mapped
    mambavl.extract.encoders.build(name)       a frozen encoder: its tokens and pooled features
    mambavl.fuse.fusion.SSMFusion(config)      the head: a state space model per modality, which share A
    mambavl.fuse.scan.selective_scan(...)      the scan alone, on any device
    mambavl.fuse.metrics.evaluate(...)         scores and labels -> the metrics of EPIC-KITCHENS-100

On the command line, `mambavl --help` lists what there is and `mambavl demo` shows all of it at work.
"""

from importlib.metadata import version

__version__ = version("mambavl")
