import json
import math
import os
import subprocess
import time

import pytest
from tensorboardX.proto import event_pb2

from imgjax.perf import chips, throughput
from imgjax.rundir import metrics_log


def row(step, split='train', **numbers):
    return {'step': step, 'split': split, 'loss': 1.0 / step} | numbers


def events_of(workdir, what=lambda event, value: value.simple_value):
    """Returns {(tag, step): value} of the TensorBoard files."""
    found = {}
    for name in os.listdir(workdir / 'tensorboard'):
        data = (workdir / 'tensorboard' / name).read_bytes()
        while data:  # length, its checksum, the event, its checksum
            size = int.from_bytes(data[:8], 'little')
            event = event_pb2.Event.FromString(data[12:12 + size])
            for value in event.summary.value:
                assert (value.tag, event.step) not in found, 'an event is doubled'
                found[value.tag, event.step] = what(event, value)
            data = data[16 + size:]
    return found


def test_rows_and_events_go_on_after_a_restart_without_doubles(tmp_path):
    log = metrics_log.Log(str(tmp_path), 0)
    for step in (10, 20, 30):
        log.write(row(step, perf={'time': 5.0, 'step_time': 0.1, 'mfu': None}))
    log.close()
    log = metrics_log.Log(str(tmp_path), 20)  # step 30 is work that was lost
    assert [r['step'] for r in log.rows] == [10, 20]
    log.write(row(30, loss=0.5))
    log.write(row(30, 'test', accuracy=0.5))
    assert log.has(30, 'test') and not log.has(20, 'test')
    assert metrics_log.scores(log.rows, 'test', 'accuracy', True) == {30: 0.5}
    log.write(row(30, 'val', accuracy=0.5, mean_average_precision=0.7))
    assert metrics_log.scores(log.rows, 'val', 'mean_average_precision', True) == {30: 0.7}
    assert metrics_log.scores(log.rows, 'train', 'loss', False)[30] == -0.5, 'the lower the better'
    log.close()
    assert [r['step'] for r in metrics_log.read_rows(str(tmp_path))] == [10, 20, 30, 30, 30]
    events = events_of(tmp_path)
    assert events['train/loss', 30] == 0.5
    assert ('perf/step_time', 20) in events and ('perf/mfu', 20) not in events


def test_evaluations_before_the_first_logged_step_have_a_wall_time(tmp_path):
    """They have no time of their own; TensorBoard showed them in 1970."""
    began = time.time()
    log = metrics_log.Log(str(tmp_path), 0)
    log.write(row(5, 'test'))
    log.write(row(10, perf={'time': began + 50.0}))
    log.close()
    for restart in (False, True):
        if restart:
            metrics_log.Log(str(tmp_path), 10).close()
        times = events_of(tmp_path, lambda event, value: event.wall_time)
        assert began <= times['test/loss', 5] <= times['train/loss', 10] == began + 50.0


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    log = metrics_log.Log(str(tmp_path), 0)
    log.write(row(10))
    log.close()
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 20, "spl')
    log = metrics_log.Log(str(tmp_path), 20)
    log.write(row(20))
    log.close()
    text = (tmp_path / 'metrics.jsonl').read_text()
    assert [json.loads(line)['step'] for line in text.splitlines()] == [10, 20]


def test_nan_is_null_in_strict_json(tmp_path):
    assert metrics_log.jsonable({'arms': [{'low': math.nan, 'n': 1}]}) == {
        'arms': [{'low': None, 'n': 1}]}
    log = metrics_log.Log(str(tmp_path), 0)
    log.write(row(10, loss=math.nan, grad_norm=math.inf))
    log.close()
    text = (tmp_path / 'metrics.jsonl').read_text()
    assert json.loads(text, parse_constant=pytest.fail)['loss'] is None


def test_a_full_disk_makes_rows_wait(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(disk)],
                      capture_output=True).returncode:
        pytest.skip('mounting a small disk needs root')
    try:
        log = metrics_log.Log(str(disk), 0)
        log.write(row(10))
        with open(disk / 'filler', 'wb', buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(512))
        for step in range(20, 400, 10):
            log.write(row(step, **{f'layer_{number}': 0.125 for number in range(24)}))
        os.remove(disk / 'filler')
        log.write(row(400))
        log.close()
        assert [r['step'] for r in metrics_log.read_rows(str(disk))] == list(range(10, 401, 10))
    finally:
        subprocess.run(['umount', '-l', str(disk)], check=True)


@pytest.mark.parametrize('kind, peak', [
    ('NVIDIA H100 80GB HBM3', 989e12), ('NVIDIA H100 PCIe', 756e12), ('TPU v5 lite', 197e12),
    ('TPU v5p', 459e12), ('TPU v4', 275e12), ('NVIDIA A100-SXM4-40GB', 312e12), ('cpu', None)])
def test_peak_of_a_device(kind, peak):
    assert chips.peak_flops(kind) == peak


def test_performance_adds_up():
    perf = throughput.performance(steps=10, seconds=2.0, stalled=0.5, batch_size=64, flops=1e9,
                               compile_seconds=3.0)
    assert perf['images_per_second'] == 320 and perf['step_time'] == 0.2
    assert perf['infeed_stall'] == 0.25 and perf['flops_per_second'] == 5e9
    assert perf['mfu'] is None
    assert 'infeed stall 25.0%' in metrics_log.line(
        {'step': 10, 'split': 'train', 'loss': 1.0, 'perf': perf}, 100)
