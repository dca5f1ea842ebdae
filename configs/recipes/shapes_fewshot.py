"""Classes from a few boxes on the embedded benchmark: every way to add one, by shots and seeds.

    ovd run configs/recipes/shapes_fewshot.py

Trains a ViLD, a hypernetwork over its RoI head, Sylph's FCOS and TFA's Faster R-CNN on 72 base classes; then 30 novel
classes are added by 1 to 10 boxes, by their names, by made-up names, and by names and boxes together. The last stage
writes docs/results/shapes_fewshot.{json,md,png}. It takes about an hour on two cores, and goes on where it was if it is
interrupted.
"""

name = "shapes_fewshot"
jobs = 2
shots = (1, 2, 3, 5, 10)
seeds = (0, 1, 2, 3, 4)  # of the shots
tuned_seeds = seeds[:3]  # of those that TFA, which trains for each set of shots, is fine-tuned on

data = "{work_dir}/data"
split = f"{data}/annotations/split.json"
all_classes = f"{data}/annotations/instances_train.json"
on_data = f"--data-root {data}"
train_options = f"{on_data} --resume --seed 0"
boxes = ("prototype", "matching", "tip", "linear", "cosine", "negative-margin", "codes")
rules = ("weights", "logits", "max", "trusted")
roi_methods = " ".join([
    "text", "made-up", *boxes,
    *(f"{words}+{source}:{rule}" for words in ("text", "made-up") for source in ("prototype", "codes")
      for rule in rules), "text+tip:logits"])
sets = {seed: f"{{work_dir}}/shots/seed{seed}.json" for seed in seeds}
on_shots = (f"--shots {' '.join(map(str, shots))} --shots-files {' '.join(sets.values())}")


def trained(stage: str, config: str, after: list[str], options: str = "") -> dict:
    """A stage that trains; its checkpoint is final.pth in a folder of the stage's name."""
    return dict(name=stage, after=after, threads=1, outputs=[f"{{work_dir}}/{stage}/final.pth"],
                command=f"train {config} {train_options} --work-dir {{work_dir}}/{stage} {options}")


def evaluated(stage: str, config: str, checkpoint: str, methods: str, options: str = "") -> dict:
    """A stage that adds classes to a trained detector."""
    return dict(name=f"eval-{stage}", after=[checkpoint, "shots"], outputs=[f"{{work_dir}}/eval_{stage}/fewshot.json"],
                threads=1,
                command=f"fewshot-eval {config} {{work_dir}}/{checkpoint}/final.pth --methods {methods} {on_shots} "
                        f"{options} {on_data} --out {{work_dir}}/eval_{stage}")


stages = [
    dict(name="scenes", after=[], command=f"shapes {on_data}", outputs=[data]),
    dict(name="splits", command=f"build-zsl --split {split} {on_data} --train-ann annotations/instances_train.json "
                                "--val-ann annotations/instances_val.json",
         outputs=[f"{data}/annotations/instances_{subset}_shapes.json" for subset in ("train", "val")]),
    dict(name="class-embeddings", command=f"class-embeddings vild --config configs/shapes/vild.py {on_data}",
         outputs=[f"{data}/class_heads/shapes.safetensors"]),
    trained("rpn", "configs/shapes/rpn.py", ["class-embeddings"]),
    trained("sylph_base", "configs/sylph/fcos_base_shapes.py", ["class-embeddings"]),
    dict(name="proposals", after=["rpn"], outputs=[f"{data}/proposals/train"],
         command=f"proposals configs/shapes/rpn.py {{work_dir}}/rpn/final.pth {on_data} --subset train"),
    dict(name="regions", after=["proposals"], outputs=[f"{data}/regions/train"],
         command=f"embed-regions configs/shapes/vild.py {on_data} --processes 1"),
    trained("vild", "configs/shapes/vild.py", ["regions"]),
    trained("tfa_base", "configs/tfa/shapes_base.py", ["class-embeddings"]),
    trained("sylph", "configs/sylph/sylph_fa_shapes.py", ["sylph_base"],
            "--cfg-options load_from={work_dir}/sylph_base/final.pth"),
    trained("hyper_roi", "configs/hyper_roi/hyper_roi_shapes.py", ["vild"],
            "--cfg-options load_from={work_dir}/vild/final.pth"),
]
stages += [
    dict(name=f"shots-{seed}" if seed != seeds[-1] else "shots", outputs=[sets[seed]],
         after=["splits"] if seed == seeds[0] else [f"shots-{seed - 1}"],
         command=f"shots sample --annotations {all_classes} --image-root {data}/train2017 --split {split} "
                 f"--shots {max(shots)} --seed {seed} --out {sets[seed]}")
    for seed in seeds]
stages += [
    evaluated("roi", "configs/hyper_roi/hyper_roi_shapes.py", "hyper_roi", roi_methods),
    evaluated("softmax", "configs/hyper_roi/hyper_roi_shapes.py", "hyper_roi",
              "text prototype codes text+prototype:weights text+codes:weights", "--scores softmax"),
    evaluated("sylph", "configs/sylph/sylph_fa_shapes.py", "sylph", "codes"),
    dict(name="tfa-init", after=["tfa_base"], outputs=["{work_dir}/tfa_base/init.pth"],
         command=f"head-surgery {{work_dir}}/tfa_base/final.pth --split {split} --out {{work_dir}}/tfa_base/init.pth"),
]
for seed in tuned_seeds:
    for k in shots:
        run = f"{k}shots_seed{seed}"
        chosen, records = f"{data}/tfa_shots/{run}.shots.json", f"{data}/tfa_shots/{run}.json"
        folder = f"{{work_dir}}/tfa/{run}"
        stages += [
            dict(name=f"tfa-shots-{run}", after=["splits"], outputs=[chosen],
                 command=f"shots sample --annotations {all_classes} --image-root {data}/train2017 --split {split} "
                         f"--shots {k} --seed {seed} --out {chosen}"),
            dict(name=f"tfa-annotations-{run}", outputs=[records],
                 command=f"shots annotations {chosen} --split {split} --out {records}"),
            dict(name=f"tfa-{run}", after=[f"tfa-annotations-{run}", "tfa-init"], threads=1,
                 outputs=[f"{folder}/final.pth"],
                 command=f"train configs/tfa/shapes_finetune.py {train_options} --work-dir {folder} --cfg-options "
                         f"load_from={{work_dir}}/tfa_base/init.pth "
                         f"train_dataloader.dataset.ann_file=tfa_shots/{run}.json"),
            dict(name=f"test-tfa-{run}", threads=1, outputs=[f"{folder}/metrics.json"],
                 command=f"test configs/tfa/shapes_finetune.py {folder}/final.pth {on_data} --work-dir {folder}"),
        ]
stages += [
    dict(name="test-tfa-base", after=["tfa_base"], outputs=["{work_dir}/tfa_base/metrics.json"],
         command=f"test configs/tfa/shapes_base.py {{work_dir}}/tfa_base/final.pth {on_data} "
                 "--work-dir {work_dir}/tfa_base"),
    dict(name="test-sylph-base", after=["sylph_base"], outputs=["{work_dir}/sylph_base/metrics.json"],
         command=f"test configs/sylph/fcos_base_shapes.py {{work_dir}}/sylph_base/final.pth {on_data} "
                 "--work-dir {work_dir}/sylph_base"),
]
stages.append(dict(
    name="study", after=[stage["name"] for stage in stages], outputs=["docs/results/shapes_fewshot.json"],
    command="fewshot-study configs/recipes/shapes_fewshot.py --work-dir {work_dir} "
            "--out docs/results/shapes_fewshot"))

fewshot_study = dict(
    title="Classes from a few boxes on the embedded benchmark",
    introduction="Detectors learn from boxes of 72 base classes; then 30 novel classes are added: by their names, by 1 "
                 "to 10 boxes, or by both. A set of shots (a seed) is the same for all methods. Everything that was "
                 "chosen (weights, calibrations) was chosen on base classes. What it shows is discussed in "
                 "[../fewshot.md](../fewshot.md).",
    results=[
        dict(file="{work_dir}/eval_roi/fewshot.json"),
        dict(file="{work_dir}/eval_softmax/fewshot.json", suffix=", softmax"),
        dict(file="{work_dir}/eval_sylph/fewshot.json", names={"codes": "Sylph FCOS"}),
    ],
    tuned=[dict(method="TFA", metrics="{work_dir}/tfa/{shots}shots_seed{seed}/metrics.json", shots=shots,
                seeds=tuned_seeds)],
    base_only={"Sylph FCOS": "{work_dir}/sylph_base/metrics.json", "TFA": "{work_dir}/tfa_base/metrics.json"},
    titles={"text": "text only", "codes": "hypernetwork on RoI", "prototype": "prototype", "cosine": "fitted cosine",
            "linear": "fitted linear", "negative-margin": "fitted, negative margin", "tip": "Tip cache",
            "matching": "matching", "made-up": "made-up name only"},
    charts=[
        dict(title="Boxes alone, and the name alone",
             methods=["text", "Sylph FCOS", "codes", "prototype", "cosine", "tip", "TFA"]),
        *(dict(title=f"{title} and {of}", methods=[name, source, *(f"{name}+{source}:{rule}" for rule in rules)])
          for name, title in (("text", "The name"), ("made-up", "A made-up name"))
          for source, of in (("prototype", "a prototype"), ("codes", "a hypernetwork's code"))),
    ],
    questions=[
        *(dict(text=f"Do name and {of} together beat {what}?", of=f"text+{source}:{rule}", over=over)
          for source, of in (("prototype", "prototype"), ("codes", "code")) for rule in rules
          for what, over in (("the name alone", "text"), ("the boxes alone", source))),
        dict(text="Does the hypernetwork beat the prototype?", of="codes", over="prototype"),
        dict(text="Does the fitted cosine classifier beat the prototype?", of="cosine", over="prototype"),
        dict(text="Does the Tip cache beat the prototype?", of="tip", over="prototype"),
        dict(text="Does the hypernetwork beat fine-tuning?", of="codes", over="TFA"),
        *(dict(text=f"What does a made-up name cost beside {of} ({rule})?", of=f"made-up+{source}:{rule}", over=source)
          for source, of in (("prototype", "a prototype"), ("codes", "a code")) for rule in rules),
    ],
    keep_base=["text", *boxes, *(f"text+codes:{rule}" for rule in rules),
               *(f"text+prototype:{rule}" for rule in rules), "Sylph FCOS"])
