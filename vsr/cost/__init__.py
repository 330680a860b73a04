"""What a run would cost: counted work, dry runs of the engine's own code, and the rates of devices."""
