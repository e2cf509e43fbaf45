"""The laboratory's equipment: what a study is, and the data, models and tools that studies share."""
