"""Outside knowledge as triples: neighbours, paths, what lies within some steps, and where each edge came from."""

from keeps.graphs.graph import Edge as Edge
from keeps.graphs.graph import KnowledgeGraph as KnowledgeGraph
from keeps.graphs.graph import Step as Step
from keeps.graphs.graph_files import read_graph as read_graph
from keeps.graphs.graph_files import write_graph as write_graph
from keeps.graphs.wordnet import wordnet_graph as wordnet_graph
