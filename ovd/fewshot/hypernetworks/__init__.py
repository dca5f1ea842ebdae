"""Code generators: networks that make the classifier of a class from a few boxes, without training."""

from ovd.fewshot.hypernetworks.convolutional import ConvolutionalCodeGenerator
from ovd.fewshot.hypernetworks.generator import CodeGenerator, Codes, RawCodes
from ovd.fewshot.hypernetworks.once import OnceCodeGenerator
from ovd.fewshot.hypernetworks.transformer import TransformerCodeGenerator

__all__ = ["CodeGenerator", "Codes", "ConvolutionalCodeGenerator", "OnceCodeGenerator", "RawCodes",
           "TransformerCodeGenerator"]
