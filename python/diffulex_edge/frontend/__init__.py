"""From a `torch.nn.Module` to the library's graph, through `torch.export`."""
