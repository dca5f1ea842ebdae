"""torchvision-backed replacements for mmcv's compiled operators.

mmcv keeps its C++ and CUDA operators in one extension module, ``mmcv._ext``; without a compiler that module is missing
and ``import mmcv.ops`` fails. ``import ovd`` registers a finder (:mod:`ovd.ops.extension`) that provides the module
when, and only when, no compiled one is installed. The public functions of ``mmcv.ops`` then work as usual:

====================  ==================================================  ============================================
module                operators of ``mmcv._ext``                          computed by
====================  ==================================================  ============================================
:mod:`.nms`           nms, softnms, nms_match                             torchvision; NumPy for the sequential ones
:mod:`.roi_align`     roi_align_{forward,backward}                        torchvision (avg), PyTorch (max)
:mod:`.roi_pool`      roi_pool_{forward,backward}                         PyTorch
:mod:`.focal_loss`    {sigmoid,softmax}_focal_loss_{forward,backward}     PyTorch
:mod:`.deform_conv`   deform_conv_*, modulated_deform_conv_*              torchvision
====================  ==================================================  ============================================

Every other operator exists as a name and raises :class:`ovd.ops.extension.OperatorNotCompiled` when it is called.
"""
