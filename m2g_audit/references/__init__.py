"""What a model's pictures are compared with: training, unseen and control pictures."""
