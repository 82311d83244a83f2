"""Starting programs and learning how they ended: one process, a torchrun group per node, the kernel's OOM killer."""
