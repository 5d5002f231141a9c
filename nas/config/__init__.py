"""The configuration of a search, from a YAML file and flags; every error is one line that names the field.

A part that comes in kinds (space, strategy, evaluator) is chosen by name, and its own fields are set beside it:
`--strategy evolution --strategy.population-size 40`, or in YAML `strategy: {name: evolution, population_size: 40}`.
"""

from nas.config.building import BUILDERS as BUILDERS
from nas.config.building import build as build
from nas.config.building import build_predictor as build_predictor
from nas.config.building import build_space as build_space
from nas.config.building import build_strategy as build_strategy
from nas.config.building import default_of as default_of
from nas.config.building import defaults as defaults
from nas.config.building import fields_of as fields_of
from nas.config.building import from_values as from_values
from nas.config.building import named as named
from nas.config.building import names as names
from nas.config.building import to_data as to_data
from nas.config.comparing import moved as moved
from nas.config.comparing import same_part as same_part
from nas.config.flags import SETTLED as SETTLED
from nas.config.flags import Parser as Parser
from nas.config.flags import parse as parse
from nas.config.flags import parser_of_all as parser_of_all
from nas.config.keeping import check_kept as check_kept
from nas.config.values import ELSEWHERE as ELSEWHERE
from nas.config.values import PARTS as PARTS
from nas.config.values import RESUMABLE as RESUMABLE
from nas.config.values import Config as Config
from nas.config.values import Data as Data
from nas.config.values import parse_limits as parse_limits
