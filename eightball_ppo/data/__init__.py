"""Load and validate questions; split them by question. Nothing here knows models or tokenizers."""

from eightball_ppo.data.objects import cut_questions as cut_questions
from eightball_ppo.data.objects import questions_from as questions_from
from eightball_ppo.data.questions import Questions as Questions
from eightball_ppo.data.questions import normalize_text as normalize_text
from eightball_ppo.data.questions import split_by_question as split_by_question
from eightball_ppo.data.reading import label_names as label_names
from eightball_ppo.data.reading import load_both as load_both
from eightball_ppo.data.reading import load_file as load_file
from eightball_ppo.data.reading import load_named as load_named
from eightball_ppo.data.reading import load_split as load_split
from eightball_ppo.data.reading import train_split as train_split
