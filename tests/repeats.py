"""Cases that repeat a promise for one more method, layer, loss or data set: `make test-thorough` runs them all.

`make test` runs of each function below the cases that are kept here, patterns of `fnmatch` on what stands in brackets.
Every function keeps at least one, but those of `SHOWN_ELSEWHERE`. `pytest --thorough` leaves nothing out.
"""

from fnmatch import fnmatchcase

KEPT = {
    "test_advice.py::test_jac_of_the_result_is_the_gradient_at_its_x": ["l-bfgs-b"],
    "test_advice.py::test_rows_so_far_in_the_progress_bar": ["None"],
    "test_bounds_and_constraints.py::test_least_squares_with_a_given_sum": ["*-SLSQP", "*-trust-constr", "dict-*"],
    "test_bounds_and_constraints.py::test_nonnegative_least_squares": ["*-L-BFGS-B", "*-SLSQP", "by name-*"],
    "test_callbacks.py::test_one_optimizer_in_two_models_fitted_in_turns": ["LBFGS"],
    "test_chain.py::test_a_file_carries_the_chain": ["model.keras-5"],
    "test_chain.py::test_a_fit_after_an_error_goes_on_in_the_stage": ["2-end-Keyboard*", "5-begin-Runtime*"],
    "test_chain.py::test_backup_and_restore_goes_on_in_the_stage": ["5"],
    "test_chain.py::test_files_and_later_fits_have_no_nan": ["unbuilt"],
    "test_chain.py::test_one_fit_is_the_fits_of_its_stages": ["scipy"],
    "test_chain.py::test_stop_and_resume_is_never_stopped": ["pieces4"],
    "test_chain.py::test_streams": ["data set"],
    "test_changing_objective.py::test_a_loss_weight_assigned_by_a_callback": ["add_weight-*", "tf-L-BFGS-B"],
    "test_changing_objective.py::test_under_a_strategy": ["*cache*"],
    "test_convergence.py::test_generalized_linear_models_in_raw_units": ["logistic-auto", "Poisson-None"],
    "test_convergence.py::test_methods_without_derivatives_are_asked_too": ["COBYLA"],
    "test_convergence.py::test_regressions_in_raw_units_are_solved": [
        "longley-*",
        "engel-plain",
        "breast_cancer-float64",
    ],
    "test_convergence.py::test_targets_of_any_size": ["LBFGS-*", "graph-1000000000000.0", "SSBroyden-1e-06"],
    "test_convergence.py::test_without_units_nothing_false_is_said": ["longley-plain", "engel-plain", "scotland-graph"],
    "test_custom_steps.py::test_custom_step_has_the_loss_of_one_chunk": ["WithOwnLoss-*7?", "WithComputeLoss-*7?"],
    "test_data_edges.py::test_a_number_beside_the_rows": ["False-3", "auto-1"],
    "test_data_edges.py::test_batches_without_rows": ["mean_with_sample_weight-*", "sum-auto"],
    "test_data_edges.py::test_xla_where_a_concatenation_is_differentiated_again": ["l-bfgs-b-*"],
    "test_docs.py::test_programs_run": ["docs/[!pcf]*", "docs/precise*", "docs/coming_from/[!t]*"],
    "test_gauss_newton.py::test_is_positive_semidefinite_where_the_hessian_is_not": ["categorical_crossentropy"],
    "test_gauss_newton.py::test_is_the_hessian_of_a_model_that_is_linear_in_its_weights": ["sparse*"],
    "test_gauss_newton.py::test_methods_take_it": ["newton-cg", "trust-exact"],
    "test_graph_engine.py::test_a_failed_line_search_keeps_the_last_iterate": ["light", "graph_engine"],
    "test_graph_engine.py::test_a_file_carries_the_run": [
        "keras file-network-graph*",
        "keras file-network-light",
        "weights file-with*-SSBroyden",
    ],
    "test_graph_engine.py::test_an_iteration_is_one_graph_call": ["graph_engine"],
    "test_graph_engine.py::test_ctrl_c_is_no_error": ["True-light"],
    "test_graph_engine.py::test_logs_are_those_of_the_accepted_iterate": ["linear-light", "*-graph_engine"],
    "test_graph_engine.py::test_many_iterations_in_a_call_are_one_in_each": ["False-model"],
    "test_graph_engine.py::test_memory_is_left_out_of_files_on_request_or_where_it_is_large": ["scipy"],
    "test_graph_engine.py::test_nan_at_a_trial_point_is_backed_off_from": ["light", "graph_engine"],
    "test_graph_engine.py::test_no_host_callback_in_the_graph": ["graph_engine"],
    "test_graph_engine.py::test_stop_and_resume_is_never_stopped": ["with_dropout*-graph_engine"],
    "test_graph_engine.py::test_ways_to_run": ["tfp_engine-*-float64", "light-*-float64"],
    "test_inference.py::test_least_squares_are_those_of_statsmodels": ["weights-HC3", "weights-cluster"],
    "test_inference.py::test_logit_is_that_of_statsmodels": ["HC0"],
    "test_inference.py::test_multinomial_logit_is_that_of_statsmodels": ["True"],
    "test_inference.py::test_poisson_with_an_offset_is_that_of_statsmodels": ["HC0"],
    "test_inference.py::test_selected_weights_have_the_covariance_that_all_have": ["sparse*"],
    "test_inference.py::test_what_speaks_against_the_figures_is_said": ["penalty", "bound", "undetermined"],
    "test_inputs.py::test_streamed_every_time": ["sparse dataset", "PyDataset", "infinite"],
    "test_law_of_resuming.py::test_escalation_is_resumed": ["graph"],
    "test_law_of_resuming.py::test_in_raw_units": ["model-scipy-keras", "auto-graph-keras", "model-graph-process"],
    "test_law_of_resuming.py::test_stopped_is_never_stopped": [
        "graph-model-16-1-False-process",
        "graph-model-16-1-True-keras",
        "graph-model-None-2-False-keras",
        "graph-float64-16-1-False-weights",
        "scipy-auto-16-2-False-keras",
        "scipy-float64-16-1-True-weights",
    ],
    "test_layer_kinds.py::test_product_is_that_of_finite_differences": [
        "Dense*",
        "Conv2D*",
        "Embedding*",
        "*BatchNormalization*",
        "LSTM*",
    ],
    "test_layer_kinds.py::test_two_products_are_symmetric": ["Dense*", "Conv*", "Embedding", "*Normalization"],
    "test_least_squares.py::test_cuts_and_streams_change_nothing": ["settings1"],
    "test_least_squares.py::test_jacobian_is_that_of_finite_differences": ["rows", "two*"],
    "test_least_squares.py::test_published_minima": ["Meyer", "Osborne 1"],
    "test_least_squares.py::test_what_the_squares_add_up_to": ["mean_with*-float64"],
    "test_memory.py::test_the_table_is_what_scipy_allocates": ["[!c]*-False", "trust-constr-*", "slsqp-*"],
    "test_methods.py::test_an_epoch_is_an_iteration_as_scipy_counts_them": [
        "CG",
        "L-BFGS-B",
        "TNC",
        "COBYLA",
        "Nelder-Mead",
        "trust-constr",
        "dogleg",
    ],
    "test_methods.py::test_an_error_keeps_the_last_iterate_and_leaves_no_thread": [
        "L-BFGS-B",
        "COBYQA",
        "trust-exact",
        "Newton-CG",
    ],
    "test_methods.py::test_stop_and_resume_is_never_stopped": [
        "L-BFGS-B",
        "Newton-CG",
        "Nelder-Mead",
        "trust-constr",
        "COBYLA",
    ],
    "test_multi_start.py::test_finds_the_global_minimum": ["scipy"],
    "test_multi_worker.py::test_iterates_are_those_of_one_process": ["arrays", "streamed files", "light"],
    "test_objective.py::test_the_objective_is_the_loss_that_keras_reports_however_it_is_cut": ["mean*", "masked"],
    "test_precision.py::test_float32_model_has_the_loss_of_its_float64_twin": [
        "Dense",
        "Conv2D",
        "LSTM",
        "BatchNormalization",
        "regularizers",
    ],
    "test_resume.py::test_stop_and_resume_is_never_stopped": ["pieces0-*"],
    "test_saving.py::test_any_number_of_seeds_goes_on_from_a_file": ["2-keras"],
    "test_saving.py::test_copies": ["pickle-3-light", "deepcopy-3-scipy", "clone_model-3-scipy"],
    "test_saving.py::test_files_of_earlier_versions_load": ["lbfgs-*"],
    "test_saving.py::test_h5_files_load_again": ["light"],
    "test_saving.py::test_load_model_gives_back_the_optimizer_with_its_settings": ["scipy"],
    "test_saving.py::test_saved_model_without_kormos_opt": ["export-*"],
    "test_saving.py::test_saving_in_the_middle_of_a_fit": ["scipy"],
    "test_second_derivatives.py::test_a_block_of_vectors_is_multiplied_as_one_by_one": ["Conv2D", "Embedding"],
    "test_second_derivatives.py::test_chunks_and_streams_leave_a_product_alone": ["True-7", "False-7"],
    "test_second_derivatives.py::test_the_hessian_is_symmetric": ["Dense", "BatchNormalization"],
    "test_sklearn.py::test_a_fit_goes_on_to_convergence": ["<lambda>0", "<lambda>3"],
    "test_solvers.py::test_is_scipy": ["*-[!C]*", "*-CG", "logistic-C*", "quadratic-C*"],
    "test_strategies.py::test_all_data_counts_once": ["fewer*-chunked", "in_pieces-streaming"],
    "test_strategies.py::test_data_that_cannot_be_joined": ["sparse-streaming"],
    "test_strategies.py::test_eager_and_compiled_models": ["how1"],
    "test_strategies.py::test_iterates_are_those_of_one_device": ["three replicas-scipy", "three replicas-graph"],
    "test_strategies.py::test_masks_weigh_with_their_valid_entries": ["chunked"],
    "test_strategies.py::test_one_sum_over_replicas_an_evaluation": ["gradient", "hvp"],
    "test_strategies.py::test_penalties_count_once_whatever_the_reduction": ["sum-streaming"],
    "test_strategies.py::test_stop_and_resume_is_never_stopped": ["LBFGS"],
    "test_put_back.py::test_random_numbers_without_a_state_are_never_converged": ["uniform"],
    "test_put_back.py::test_states_of_recurrent_layers": ["LSTM"],
    "test_streams.py::test_another_order_is_said_once": ["Shuffled"],
    "test_streams.py::test_data_that_changes_is_an_error": ["shorter*", "other_values_at_the_end*"],
    "test_streams.py::test_streams_have_the_iterates_of_data_in_memory": ["False-PyDataset*", "auto-CSV"],
    "test_units.py::test_all_ways_to_say_it_lead_to_the_optimum": ["jac-graph", "inputs-scipy", "[[]*-graph"],
    "test_units.py::test_raw_data_is_solved_by_all_methods": ["TNC", "SLSQP", "Newton-CG"],
}

SHOWN_ELSEWHERE = {
    "test_examples.py::test_allen_cahn": "test_examples.py, test_burgers, and test_resampling.py",
    "test_examples.py::test_inverse_burgers": "test_examples.py, test_burgers, and test_inference.py",
    "test_examples.py::test_mnist": "test_models.py, its network, and test_chain.py",
    "test_examples.py::test_poisson": "test_examples.py, test_burgers",
    "test_examples.py::test_several_workers_print_what_one_does": "test_multi_worker.py",
    "test_examples.py::test_transfer": "test_advice.py, what it advises",
    "test_graph_engine.py::test_backup_and_restore_after_sigkill": "test_multi_worker.py, and test_chain.py by errors",
    "test_graph_engine.py::test_tfp_tries_step_one_before_it_searches": "test_graph_engine.py, test_ways_to_run",
    "test_graph_engine.py::test_the_ancestors_table_to_the_same_loss": "test_models.py, by the document's examples",
    "test_keras_tuner.py::test_search_over_names": "test_keras_tuner.py, over the options of a chain",
    "test_multi_worker.py::test_files_are_written_once": "test_multi_worker.py, test_a_restart_goes_on",
    "test_multi_worker.py::test_three_workers_with_uneven_shards": "test_multi_worker.py, by file and streamed",
    "test_notebook.py::test_it_runs_from_top_to_bottom": "test_interruptions.py, test_plotting.py, test_fit_result.py",
    "test_sklearn.py::test_grid_search_in_two_processes": "test_saving.py, test_a_pickled_model_carries_the_import",
    "test_streams.py::test_chains_go_on_from_stage_to_stage": "test_chain.py, test_streams",
}

# Of the generated docstrings of the optimizers, one of each kind of derivatives.
DOCTESTS = {"NelderMead", "BFGS", "NewtonCG", "Dogleg", "SSBroyden"}


def is_repeat(node_id: str) -> bool:
    """Whether a case repeats what another one shows.

    Args:
        node_id: As pytest has it, such as `tests/test_methods.py::test_columns[BFGS]`.
    """
    name, _, case = node_id.partition("@")[0].removeprefix("tests/").partition("[")
    if name.startswith(("kormos_opt/optimizers/methods.py::", "kormos_opt/optimizers/self_scaled.py::")):
        return not any(name.endswith(f".{kept}") for kept in DOCTESTS)
    if name in SHOWN_ELSEWHERE:
        return True
    return name in KEPT and not any(fnmatchcase(case.removesuffix("]"), pattern) for pattern in KEPT[name])
