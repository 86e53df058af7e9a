"""`python -m gpu_autoscaler` is `gpu-autoscaler`."""

from gpu_autoscaler.cli import main

main()
