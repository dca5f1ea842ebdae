"""The whole pipeline on the embedded benchmark: `make demo`, or

    ovd run configs/recipes/demo.py [--seed 1]

Renders scenes with 102 classes, learns proposals from boxes of the 72 base classes, embeds class names and proposals
with the project's small CLIP, trains ViLD-text and ViLD, and compares them on 30 classes of which neither saw a box.
Every file goes to work_dirs/demo. It is made for two cores and takes less than a quarter of an hour there.
"""

name = "demo"
seed = 0  # of the training; the scenes are always the same
jobs = 2

data = "{work_dir}/data"
on_data = "--data-root {work_dir}/data"
rpn = "{work_dir}/rpn"
text = "{work_dir}/vild_text"
vild = "{work_dir}/vild"

# Until the region embeddings are there, each stage has all cores. Then the two trainings run side by side: two
# processes with a thread each get more out of two cores than one with two.
stages = [
    dict(name="scenes", command=f"shapes {on_data}", outputs=[data]),
    dict(name="splits", command=f"build-zsl --split {data}/annotations/split.json {on_data} --train-ann "
                                "annotations/instances_train.json --val-ann annotations/instances_val.json",
         outputs=[f"{data}/annotations/instances_{subset}_shapes.json" for subset in ("train", "val")]),
    dict(name="class-embeddings", command=f"class-embeddings vild --config configs/shapes/vild.py {on_data}",
         outputs=[f"{data}/class_heads/shapes.safetensors"]),
    dict(name="clip-zero-shot", command=f"zero-shot {on_data} --class-head {data}/class_heads/shapes.safetensors"
                                        " --out {work_dir}/clip_zero_shot.json",
         outputs=["{work_dir}/clip_zero_shot.json"]),
    dict(name="rpn", command=f"train configs/shapes/rpn.py {on_data} --work-dir {rpn} --resume --seed {{seed}}",
         outputs=[f"{rpn}/final.pth"]),
    dict(name="proposals", command=f"proposals configs/shapes/rpn.py {rpn}/final.pth {on_data}",
         outputs=[f"{data}/proposals/train", f"{data}/proposals/val"]),
    dict(name="region-embeddings", command=f"embed-regions configs/shapes/vild.py {on_data}",
         outputs=[f"{data}/regions/train"]),
    dict(name="vild", after=["region-embeddings"], outputs=[f"{vild}/final.pth"],
         command=f"train configs/shapes/vild.py {on_data} --work-dir {vild} --resume --seed {{seed}}"),
    dict(name="vild-text", after=["region-embeddings"], outputs=[f"{text}/final.pth"],
         command=f"train configs/shapes/vild_text.py {on_data} --work-dir {text} --resume --seed {{seed}}"),
    dict(name="test-vild-text", after=["vild-text"], outputs=[f"{text}/metrics.json", f"{text}/detections.json"],
         command=f"test configs/shapes/vild_text.py {text}/final.pth --eval bbox segm {on_data} --work-dir {text}"
                 f" --out {text}/detections.json"),
    dict(name="test-vild", after=["vild"], outputs=[f"{vild}/metrics.json", f"{vild}/detections.json"],
         command=f"test configs/shapes/vild.py {vild}/final.pth --eval bbox segm {on_data} --work-dir {vild}"
                 f" --out {vild}/detections.json"),
]

report = dict(
    title="Open-vocabulary detection on the embedded benchmark",
    introduction="Two detectors that learned from boxes of 72 base classes are asked for 30 classes of which they have "
                 "never seen a box: new combinations of known colours, patterns and shapes, and shapes that no base "
                 "class has. ViLD-text goes by the classes' names. ViLD has also learned to imitate CLIP's embeddings "
                 "of image regions.",
    methods=[dict(name="vild_text", title="ViLD-text", metrics=f"{text}/metrics.json",
                  detections=f"{text}/detections.json"),
             dict(name="vild", title="ViLD", metrics=f"{vild}/metrics.json", detections=f"{vild}/detections.json")],
    clip_zero_shot="{work_dir}/clip_zero_shot.json",
    annotations=f"{data}/annotations/instances_val_shapes.json", images=f"{data}/val2017",
    split=f"{data}/annotations/split.json", proposals=f"{data}/proposals/val")
