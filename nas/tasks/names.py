"""The names of our own tasks, as users type them: in a file that imports nothing, for whoever looks names up."""

NAMES = (
    *("digits", "fashion-mnist", "cifar10", "npz:FILE", "folder:DIR"),
    *("voc:DIR", "coco:JSON,DIR", "scenes", "scenes:small", "scenes:large", "table:FILE"),
)
