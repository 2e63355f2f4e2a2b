"""DomainNet as data: its categories, its grid of tasks, and its pictures as they are published.

Peng et al. 2019, Moment Matching for Multi-Source Domain Adaptation (arXiv 1812.01754): six
domains, 345 classes. Importing this imports neither torch nor ``datasets``.
"""

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
"""In the order of the published page; also the names of folders and lists."""
