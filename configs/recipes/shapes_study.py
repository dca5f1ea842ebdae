"""Every method on the embedded benchmark, three seeds each:

    ovd run configs/recipes/shapes_study.py

A seed has its own proposals, embeddings and trainings; the scenes are the same. The last stage writes the results of
all seeds to docs/results/shapes_study.{json,md,png}; the report in the work directory is about the first seed. It takes
about two hours on two cores, and goes on where it was if it is interrupted.
"""

name = "shapes_study"
seeds = (0, 1, 2)
jobs = 2

trained = ("vild_text", "vild_image", "vild", "supervised", "vild_ensemble", "detpro", "oadp")
needs = {"vild_ensemble": "regions", "detpro": "prompts", "oadp": "globals"}  # besides these: regions
dense = {"vild_text_dense": "vild_text", "vild_dense": "vild"}  # a trained detector with CLIP's say at test

stages = []
for seed in seeds:
    folder = f"{{work_dir}}/seed{seed}"
    data = f"{folder}/data"
    on_data = f"--data-root {data}"
    train_options = f"{on_data} --resume --seed {seed}"

    def tested(method: str, command: str, out: str, number: int, options: str) -> dict:
        """A stage that evaluates: figures and detections in the folder ``out``."""
        return dict(name=f"test-{method}-{number}", outputs=[f"{out}/metrics.json", f"{out}/detections.json"],
                    command=f"{command} {options} --work-dir {out} --out {out}/detections.json")

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
        # CLIP on crops: as many proposals of a validation image as the detectors look at
        dict(name=f"val-regions-{seed}", outputs=[f"{data}/regions/val"],
             command=f"embed-regions configs/shapes/vild.py {on_data} --subset val --processes 1 --cfg-options "
                     "regions.top_k=100"),
        # DetPro: pairs of boxes and names, and a context learned from them
        dict(name=f"annotated-{seed}", outputs=[f"{data}/proposals/ground_truth"],
             command=f"proposals configs/shapes/detpro.py --from-annotations --subset train {on_data} --out "
                     f"{data}/proposals/ground_truth"),
        dict(name=f"annotated-regions-{seed}", outputs=[f"{data}/regions/ground_truth"],
             command=f"embed-regions configs/shapes/detpro.py {on_data} --processes 1 --proposals "
                     f"{data}/proposals/ground_truth --out {data}/regions/ground_truth"),
        dict(name=f"prompts-{seed}", after=[f"regions-{seed}", f"annotated-regions-{seed}"],
             command=f"learn-prompts configs/shapes/detpro.py {on_data} --seed {seed}",
             outputs=[f"{data}/class_heads/detpro.safetensors"]),
        # OADP's pyramid
        dict(name=f"objects-{seed}", after=[f"proposals-{seed}"], outputs=[f"{data}/regions_oadp/train"],
             command=f"embed-regions configs/shapes/oadp.py {on_data} --processes 1"),
        *(dict(name=f"{level}-{seed}", outputs=[f"{data}/{level}/train"],
               command=f"embed-regions configs/shapes/oadp.py {on_data} --processes 1 --what {level}")
          for level in ("blocks", "globals")),
        # what CLIP itself makes of ground-truth boxes, with templates and with the learned context
        *(dict(name=f"zero-shot-{head}-{seed}", after=[f"{needed}-{seed}"], outputs=[f"{folder}/zero_shot_{head}.json"],
               command=f"zero-shot {on_data} --class-head {data}/class_heads/{head}.safetensors --out "
                       f"{folder}/zero_shot_{head}.json")
          for head, needed in (("shapes", "class-embeddings"), ("detpro", "prompts"))),
    ]
    for method in trained:
        out, config = f"{folder}/{method}", f"configs/shapes/{method}.py"
        stages += [
            dict(name=f"{method}-{seed}", after=[f"{needs.get(method, 'regions')}-{seed}"],
                 outputs=[f"{out}/final.pth"], command=f"train {config} {train_options} --work-dir {out}"),
            tested(method, f"test {config} {out}/final.pth --eval bbox segm", out, seed, on_data),
        ]
    for method, detector in dense.items():
        command = f"test configs/shapes/{detector}.py {folder}/{detector}/final.pth --eval bbox segm --dense-clip"
        stages.append({**tested(method, command, f"{folder}/{method}", seed, on_data), "after": [f"{detector}-{seed}"]})
    command = ("clip-on-crops configs/shapes/vild.py --masks-from configs/shapes/vild_text.py "
               f"{folder}/vild_text/final.pth")
    for method, option in (("clip_on_crops", ""), ("clip_on_crops_objectness", "--objectness ")):
        stages.append({**tested(method, command, f"{folder}/{method}", seed, option + on_data),
                       "after": [f"val-regions-{seed}", f"vild_text-{seed}"]})
stages.append(dict(
    name="study", after=[stage["name"] for stage in stages], outputs=["docs/results/shapes_study.json"],
    command="study configs/recipes/shapes_study.py --work-dir {work_dir} --out docs/results/shapes_study"))

methods = [
    dict(name="clip_on_crops", title="CLIP on crops",
         about="no training: softmax of CLIP's cosines on 1x and 1.5x crops of the 100 best proposals"),
    dict(name="clip_on_crops_objectness", title="CLIP on crops x objectness",
         about="the same, scores multiplied by the proposals' objectness (geometric mean)"),
    dict(name="vild_text", title="ViLD-text", about="base annotations and CLIP's embeddings of class names"),
    dict(name="vild_text_dense", title="ViLD-text + dense CLIP",
         about="ViLD-text, at test fused with scores from RoIAlign on CLIP's own map of the image"),
    dict(name="vild_image", title="ViLD-image", about="classes from distillation of CLIP's region embeddings only"),
    dict(name="vild", title="ViLD", about="both in one head"),
    dict(name="vild_dense", title="ViLD + dense CLIP", about="ViLD, fused as above"),
    dict(name="vild_ensemble", title="ViLD-ensemble", about="a text head and an image head, scores fused, lambda 2/3"),
    dict(name="detpro", title="DetPro",
         about="ViLD-ensemble whose class embeddings come from a learned context; its loss, of foreground pairs only, "
               "was chosen on base classes, where the paper's did worse ([../prompts.md](../prompts.md))"),
    dict(name="oadp", title="OADP",
         about="ViLD-ensemble that learns from masked crops with context, blocks and whole images"),
    dict(name="supervised", title="Supervised bound", about="ViLD-text that was shown the boxes of all classes"),
]
new = ["novel/ap50", "novel_shape/ap50", "novel_shape/top1_ap50", "novel_shape/accuracy"]
study = dict(
    title="The methods on the embedded benchmark",
    introduction="Detectors learn from boxes of 72 base classes and are asked for these and 30 novel ones in one pass: "
                 "new combinations of known colours, patterns and shapes, and shapes that no base class has. All have "
                 "the same backbone and schedule. What it shows is discussed in [../study.md](../study.md).",
    seeds=seeds, metrics="{work_dir}/seed{seed}/{method}/metrics.json", methods=methods, upper_bound="supervised",
    zero_shot={"CLIP, templates": "{work_dir}/seed{seed}/zero_shot_shapes.json",
               "CLIP, learned context": "{work_dir}/seed{seed}/zero_shot_detpro.json"},
    proposals=dict(store="{work_dir}/seed{seed}/data/proposals/val",
                   annotations="{work_dir}/seed{seed}/data/annotations/instances_val_shapes.json",
                   split="{work_dir}/seed{seed}/data/annotations/split.json"),
    questions=[
        dict(text="Does distillation raise novel AP far above text only?", of="vild", over="vild_text",
             figures=["base/ap50", *new]),
        dict(text="Does the ensemble beat the single head on both?", of="vild_ensemble", over="vild",
             figures=["base/ap50", *new, "base/ap", "novel/ap"]),
        dict(text="Do learned prompts beat templates?", of="detpro", over="vild_ensemble", figures=["base/ap50", *new]),
        dict(text="Does OADP's pyramid beat plain crops?", of="oadp", over="vild_ensemble",
             figures=["base/ap50", *new]),
        dict(text="Does a dense CLIP score help a detector without distillation?", of="vild_text_dense",
             over="vild_text", figures=["base/ap50", *new]),
        dict(text="Does it help one with distillation?", of="vild_dense", over="vild", figures=["base/ap50", *new]),
        dict(text="Does objectness help CLIP on crops?", of="clip_on_crops_objectness", over="clip_on_crops",
             figures=["base/ap50", "novel/ap50"]),
    ])

first = f"{{work_dir}}/seed{seeds[0]}"
shown = ("vild_text", "vild", "vild_ensemble", "vild_dense", "supervised")  # as many as fit side by side
report = dict(
    title="The methods on the embedded benchmark, first seed", introduction=study["introduction"].split(" What it")[0],
    methods=[dict(name=method["name"], title=method["title"], metrics=f"{first}/{method['name']}/metrics.json",
                  detections=f"{first}/{method['name']}/detections.json")
             for method in methods if method["name"] in shown],
    clip_zero_shot=f"{first}/zero_shot_shapes.json", annotations=f"{first}/data/annotations/instances_val_shapes.json",
    images=f"{first}/data/val2017", split=f"{first}/data/annotations/split.json",
    proposals=f"{first}/data/proposals/val")
