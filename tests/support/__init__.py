"""What tests are built from: images, registries with faults, real programs, the real proxy."""
