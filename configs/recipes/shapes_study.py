"""Every method on the embedded benchmark, three seeds each:

    ovd run configs/recipes/shapes_study.py

Each seed has its own proposals, embeddings and trainings, on the same scenes. Writes work_dirs/shapes_study/report.html
for the first seed, and the table and the chart of all seeds to docs/results (`ovd study`). Takes about two hours on two
cores; interrupted, it goes on where it was.
"""

name = "shapes_study"
seeds = (0, 1, 2)
jobs = 2

trained = ("vild_text", "vild_image", "vild", "supervised")

stages = []
for seed in seeds:
    folder = f"{{work_dir}}/seed{seed}"
    data = f"{folder}/data"
    on_data = f"--data-root {data}"
    train_options = f"{on_data} --resume --seed {seed}"
    stages += [
        dict(name=f"scenes-{seed}", after=[], command=f"shapes {on_data}", outputs=[data]),
        dict(name=f"splits-{seed}", command=f"build-zsl --split {data}/annotations/split.json {on_data} --train-ann "
                                            "annotations/instances_train.json --val-ann annotations/instances_val.json",
             outputs=[f"{data}/annotations/instances_{subset}_shapes.json" for subset in ("train", "val")]),
        dict(name=f"class-embeddings-{seed}",
             command=f"class-embeddings vild --config configs/shapes/vild.py {on_data}",
             outputs=[f"{data}/class_heads/shapes.safetensors"]),
        dict(name=f"rpn-{seed}", threads=1, outputs=[f"{folder}/rpn/final.pth"],
             command=f"train configs/shapes/rpn.py {train_options} --work-dir {folder}/rpn"),
        dict(name=f"proposals-{seed}", command=f"proposals configs/shapes/rpn.py {folder}/rpn/final.pth {on_data}",
             outputs=[f"{data}/proposals/train", f"{data}/proposals/val"]),
        dict(name=f"regions-{seed}", command=f"embed-regions configs/shapes/vild.py {on_data} --processes 1",
             outputs=[f"{data}/regions/train"]),
    ]
    for method in trained:
        out = f"{folder}/{method}"
        config = f"configs/shapes/{method}.py"
        stages += [
            dict(name=f"{method}-{seed}", after=[f"regions-{seed}"], outputs=[f"{out}/final.pth"],
                 command=f"train {config} {train_options} --work-dir {out}"),
            dict(name=f"test-{method}-{seed}", outputs=[f"{out}/metrics.json", f"{out}/detections.json"],
                 command=f"test {config} {out}/final.pth --eval bbox segm {on_data} --work-dir {out}"
                         f" --out {out}/detections.json"),
        ]
