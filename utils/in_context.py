"""The best that can be done with the examples in a prompt."""


def bayes_predictor(answers, columns, shown):
    """How probable each task's answer to the query is, given the examples.

    `answers` is (num_tasks, num_columns), what each task answers; `columns`
    (num_prompts, num_examples + 1), which of its columns the examples and
    last the query are; `shown` (num_prompts, num_examples), the answers of
    the examples. All tasks are as probable beforehand. Returns (num_tasks,
    num_prompts); tasks that agree on the query share the same probability.
    Raises ValueError for examples that no task explains.
    """
    examples, query = columns[:, :-1], columns[:, -1]
    fits = (answers[:, examples] == shown).all(-1)  # (num_tasks, num_prompts)
    if not fits.any(0).all():
        raise ValueError('examples that no task explains')
    posterior = fits / fits.sum(0)  # (num_tasks, num_prompts)
    replies = answers[:, query]  # (num_tasks, num_prompts)
    agree = replies[:, None] == replies  # (num_tasks, num_tasks, num_prompts)
    return (posterior[:, None] * agree).sum(0)
