"""The HTTP face: listings of queues, workers and tasks, and their silent limits."""

import json
from typing import Any

import pytest

from gpu_autoscaler.emulator.clearml_model import EMULATED_USER
from tests.emulator.test_clearml_http import AGENTS, KEYS, Api, with_api

NOBODY = "0" * 32


class TestQueues:
    def test_listings_are_cut_at_500_silently(self) -> None:
        async def test(api: Api) -> None:
            for number in range(520):
                api.model.create_queue(f"bulk-{number:03}")
            for paging, found in (
                ({}, 500),
                ({"page": 0, "page_size": 10_000}, 500),
                ({"page": 1, "page_size": 10_000}, 22),
                ({"page": 99}, 0),
                ({"page": 2, "page_size": 100}, 100),
            ):
                queues = (await api.data("queues.get_all", only_fields=["id"], **paging))["queues"]
                assert len(queues) == found, paging
                queues = (await api.data("queues.get_all_ex", **paging))["queues"]
                assert len(queues) == found, paging

        with_api(test)

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"name": "gpu"}, ["gpu-small", "my-gpu"]),
            ({"name": "GPU"}, []),
            ({"name": "^gpu\\-small$"}, ["gpu-small"]),
            ({"id": [NOBODY]}, []),
            ({"nmae": "gpu"}, ["default", "gpu-small", "my-gpu"]),
            ({"search_hidden": True}, ["default", "gpu-small", "my-gpu", "pods"]),
            ({"name": "pods"}, ["pods"]),
            ({"tags": ["force_workers:off"]}, ["my-gpu"]),
        ],
    )
    def test_filters(self, filters: dict[str, Any], found: list[str]) -> None:
        async def test(api: Api) -> None:
            mine = api.model.create_queue("my-gpu")
            await api.data("queues.update", queue=mine, tags=["force_workers:off"])
            pods = api.model.create_queue("pods")
            await api.data("queues.update", queue=pods, system_tags=["k8s-glue"])
            queues = (await api.data("queues.get_all", **filters))["queues"]
            assert [queue["name"] for queue in queues] == found

        with_api(test)

    def test_max_task_entries_hides_the_backlog_but_zero_does_not(self) -> None:
        async def test(api: Api) -> None:
            for _ in range(3):
                api.model.create_task("t", api.queue)
            for most, shown in ((1, 1), (0, 3), (None, 3)):
                data = await api.data("queues.get_by_id", queue=api.queue, max_task_entries=most)
                assert len(data["queue"]["entries"]) == shown
            assert await api.data("queues.get_num_entries", queue=api.queue) == {"num": 3}

        with_api(test)

    def test_an_unknown_queue_name_is_made_by_enqueue(self) -> None:
        async def test(api: Api) -> None:
            task = api.model.create_task("t")
            reply = await api.data("tasks.enqueue", task=task, queue_name="typo")
            made = api.model.queues.named("typo")
            assert made is not None
            assert reply["fields"]["execution.queue"] == made.id

        with_api(test)


class TestWorkers:
    def test_a_deleted_queue_stays_as_an_id(self) -> None:
        async def test(api: Api) -> None:
            await api.data("workers.register", worker="w1", queues=[api.queue])
            await api.data("queues.delete", queue=api.queue)
            (worker,) = (await api.data("workers.get_all"))["workers"]
            assert worker["queues"] == [{"id": api.queue}]

        with_api(test)

    def test_all_users_workers_are_listed_under_the_callers_address(self) -> None:
        async def test(api: Api) -> None:
            keys = (AGENTS.access_key, AGENTS.secret_key)
            await api.client.post("/workers.register", json={"worker": "w1"}, auth=keys)
            (worker,) = (await api.data("workers.get_all"))["workers"]
            assert (worker["user"]["id"], worker["ip"]) == (AGENTS.id, "10.0.0.7")
            await api.data("workers.unregister", worker="w1")
            assert len((await api.data("workers.get_all"))["workers"]) == 1

        with_api(test)

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({}, ["gpu1", "my_gpu1"]),
            ({"last_seen": 60}, ["gpu1"]),
            ({"last_seen": 0}, ["gpu1", "my_gpu1"]),
            ({"last_seen": None}, ["gpu1", "my_gpu1"]),
            ({"last_seen": -5}, ["gpu1"]),
            ({"worker_pattern": "gpu*"}, ["gpu1", "my_gpu1"]),
            ({"worker_pattern": "my_gpu1"}, ["my_gpu1"]),
            ({"bogus": 1}, ["gpu1", "my_gpu1"]),
        ],
    )
    def test_filters(self, filters: dict[str, Any], found: list[str]) -> None:
        async def test(api: Api) -> None:
            await api.data("workers.register", worker="my_gpu1", queues=[api.queue])
            await api.clock.sleep(300)
            await api.data("workers.register", worker="gpu1", queues=[api.queue])
            workers = (await api.data("workers.get_all", **filters))["workers"]
            assert sorted(worker["id"] for worker in workers) == found

        with_api(test)


class TestTasks:
    def test_a_mistyped_filter_lets_everything_through(self) -> None:
        async def test(api: Api) -> None:
            api.model.create_task("a")
            api.model.create_task("b")
            data = await api.data("tasks.get_all", last_worker=["w1"], only_fields=["name"])
            assert data == {"tasks": [{"name": "a"}, {"name": "b"}]}

        with_api(test)

    def test_what_nobody_may_edit_is_ignored(self) -> None:
        async def test(api: Api) -> None:
            task = api.model.create_task("a")
            edit = {"comment": "mine", "status": "completed", "last_worker": "w1"}
            reply = await api.data("tasks.edit", task=task, **edit)
            assert reply["fields"].keys() == {
                *("comment", "last_change", "last_changed_by", "last_update"),
            }
            assert api.model.task(task).status == "created"

        with_api(test)

    def test_dotted_fields_come_nested_and_absent_ones_stay_absent(self) -> None:
        async def test(api: Api) -> None:
            api.model.create_task("a", api.queue)
            fields = ["execution.queue", "script.diff", "last_worker"]
            data = await api.data("tasks.get_all", only_fields=fields)
            assert data == {"tasks": [{"execution": {"queue": api.queue}, "script": {}}]}

        with_api(test)

    def test_the_ex_listing_joins_names_that_are_asked_for(self) -> None:
        async def test(api: Api) -> None:
            api.model.create_task("a", api.queue)
            fields = ["execution.queue.name", "user.name"]
            (task,) = (await api.data("tasks.get_all_ex", only_fields=fields))["tasks"]
            assert task["execution"]["queue"] == {"id": api.queue, "name": "gpu-small"}
            assert task["user"] == {"id": EMULATED_USER.id, "name": EMULATED_USER.name}

        with_api(test)

    def test_listings_are_cut_at_500_silently(self) -> None:
        async def test(api: Api) -> None:
            for number in range(510):
                api.model.create_task(f"t{number}", api.queue)
            ask = {"status": ["queued"], "execution.queue": [api.queue], "only_fields": ["name"]}
            first = (await api.data("tasks.get_all", **ask, page=0, page_size=600))["tasks"]
            rest = (await api.data("tasks.get_all", **ask, page=1, page_size=500))["tasks"]
            assert [task["name"] for task in first + rest] == [f"t{n}" for n in range(510)]
            assert len(first) == 500

        with_api(test)

    def test_open_tasks_of_some_queues(self) -> None:
        async def test(api: Api) -> None:
            other = api.model.create_queue("other")
            waits, runs, done, elsewhere = (
                api.model.create_task(name, queue)
                for name, queue in (
                    ("waits", api.queue),
                    ("runs", api.queue),
                    ("done", api.queue),
                    ("elsewhere", other),
                )
            )
            for task in (runs, done):
                await api.data("tasks.started", task=task)
            await api.data("tasks.completed", task=done)
            ask = {"status": ["queued", "in_progress"], "execution.queue": [api.queue]}
            found = (await api.data("tasks.get_all", **ask))["tasks"]
            assert [task["id"] for task in found] == [waits, runs]
            found = (await api.data("tasks.get_all", status=["queued"]))["tasks"]
            assert [task["id"] for task in found] == [waits, elsewhere]
            # a task that is edited into another queue is found there, and once
            await api.data("tasks.edit", task=runs, execution={"queue": other})
            found = (await api.data("tasks.get_all", **ask))["tasks"]
            assert [task["id"] for task in found] == [waits]
            found = (await api.data("tasks.get_all", status=["queued", "in_progress"]))["tasks"]
            assert [task["id"] for task in found] == [waits, runs, elsewhere]

        with_api(test)

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"status_changed": [">=2026-09-07T08:01:00"]}, ["b", "c"]),
            ({"status_changed": [">2026-09-07T08:01:00+00:00"]}, ["c"]),
            ({"status_changed": ">=2026-09-07T08:01:00Z"}, ["b", "c"]),
            ({"status_changed": [">=2026-09-07T08:00:30", "<2026-09-07T08:01:30"]}, ["b"]),
            ({"last_update": ["<=2026-09-07T08:01:00"]}, ["a", "b"]),
            ({"started": [">=2026-09-07T08:00:00"]}, []),
            ({"status_changed": [">=2026-09-07T08:01:00"], "name": "^c"}, ["c"]),
            ({"order_by": ["-status_changed"]}, ["c", "b", "a"]),
            ({"order_by": ["-started", "name"]}, ["a", "b", "c"]),
        ],
    )
    def test_ranges_and_order(self, filters: dict[str, Any], found: list[str]) -> None:
        async def test(api: Api) -> None:
            for name in ("a", "b", "c"):
                api.model.create_task(name, api.queue)
                await api.clock.sleep(60)
            tasks = (await api.data("tasks.get_all", **filters, only_fields=["name"]))["tasks"]
            assert [task["name"] for task in tasks] == found

        with_api(test)

    def test_what_changed_recently_is_found_also_after_many_changes(self) -> None:
        async def test(api: Api) -> None:
            early, late = (api.model.create_task(name, api.queue) for name in ("early", "late"))
            await api.clock.sleep(60)
            await api.data("tasks.started", task=early)
            ask = {"status_changed": [">=2026-09-07T08:00:30"], "only_fields": ["id"]}
            assert (await api.data("tasks.get_all", **ask))["tasks"] == [{"id": early}]
            await api.data("tasks.started", task=late)
            found = (await api.data("tasks.get_all", **ask))["tasks"]
            assert found == [{"id": early}, {"id": late}]

        with_api(test)

    def test_events_are_a_sign_of_life_also_as_json_lines(self) -> None:
        async def test(api: Api) -> None:
            task = api.model.create_task("a", api.queue)
            await api.clock.sleep(60)
            event = json.dumps({"type": "log", "task": task, "msg": "hello"})
            reply = await api.client.post(
                "/events.add_batch",
                content=f"{event}\n{event}\n",
                headers={"content-type": "application/json-lines"},
                auth=KEYS,
            )
            assert reply.json()["data"] == {"added": 2, "errors": 0, "errors_info": {}}
            data = await api.data("tasks.get_by_id", task=task)
            assert data["task"]["last_update"] == "2026-09-07T08:01:00.000000+00:00"

        with_api(test)

    def test_only_pings_move_the_running_time(self) -> None:
        async def test(api: Api) -> None:
            task = api.model.create_task("a", api.queue)
            await api.data("tasks.started", task=task)
            report = {"worker": "w1", "task": task, "queue": api.queue, "timestamp": 1}
            await api.clock.sleep(61)
            await api.data("workers.status_report", **report)
            (worker,) = (await api.data("workers.get_all"))["workers"]
            assert worker["task"]["running_time"] == 0
            await api.data("tasks.ping", task=task)
            (worker,) = (await api.data("workers.get_all"))["workers"]
            assert worker["task"]["running_time"] == 61_000

        with_api(test)
