"""The common datamodule and its sources; every source is a function that returns `Splits`."""
