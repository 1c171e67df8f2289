"""Fine-tunes a model with Hugging Face's Trainer, which writes a checkpoint-N folder every few steps.

`python examples/finetune_with_trainer.py MODEL ROWS OUT` trains on rows {"question": …, "completion": …}, with the loss
on the completion's first token only. `mi-sweeps run model=series 'model.path=OUT/checkpoint-{step}'` then examines its
checkpoints.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--save", type=int, default=4, help="steps between two checkpoints")
    parser.add_argument("--lr", type=float, default=2e-6)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    rows = [json.loads(line) for line in given.rows.read_text(encoding="utf-8").splitlines()]
    data = []
    for row in rows:
        question, answer = tokenizer(row["question"])["input_ids"], tokenizer(row["completion"])["input_ids"][:1]
        data.append({"input_ids": question + answer, "labels": [-100] * len(question) + answer})

    def collate(some: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(one["input_ids"]) for one in some)
        fill = {"input_ids": 0, "labels": -100}
        batch = {
            key: torch.tensor([one[key] + [by] * (width - len(one[key])) for one in some]) for key, by in fill.items()
        }
        lengths = torch.tensor([[len(one["input_ids"])] for one in some])
        return {**batch, "attention_mask": (torch.arange(width) < lengths).long()}

    settings = TrainingArguments(
        output_dir=str(given.out),
        max_steps=given.steps,
        per_device_train_batch_size=given.batch,
        learning_rate=given.lr,
        lr_scheduler_type="constant",
        save_steps=given.save,
        logging_steps=1,
        save_only_model=True,
        report_to=[],
        seed=0,
    )
    trainer = Trainer(model, settings, train_dataset=data, data_collator=collate, processing_class=tokenizer)
    trainer.save_model(str(given.out / "checkpoint-0"))
    trainer.train()


if __name__ == "__main__":
    main()
