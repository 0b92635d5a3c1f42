"""The study of objectives, labels and judges: `benchmarks/STUDY.md` designs it, `benchmarks/noise_study.py` runs it."""
