"""What a fit is told to do, stage by stage: method, options, bounds, constraints. Knows no tensor and no run."""
