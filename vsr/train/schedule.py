"""Which sample is asked when, fixed before training starts: a resumed run continues the same list."""

import torch
from trl import GRPOConfig


class Schedule(torch.utils.data.Dataset):
    """The rows in the order they are asked, all epochs in one, each epoch a permutation drawn from (seed, epoch). A
    batch (`questions` a process) comes `num_iterations` times in a row."""

    def __init__(self, rows: list[dict], args: GRPOConfig, questions: int):
        self.rows = rows
        batch = questions * args.world_size
        asked = (
            args.num_train_epochs * len(rows) if args.max_steps < 1 else args.max_steps * batch / args.num_iterations
        )
        batches = max(1, -(-asked // batch))
        order: list[int] = []
        for epoch in range(int(-(-batches * batch // len(rows)))):
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + epoch)
            order += (
                torch.randperm(len(rows), generator=generator) if args.shuffle_dataset else torch.arange(len(rows))
            ).tolist()
        starts = range(0, int(batches) * batch, batch)
        self.order = [i for start in starts for _ in range(args.num_iterations) for i in order[start : start + batch]]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        return self.rows[self.order[index]]
