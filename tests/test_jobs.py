"""Job files: valid for what reads them; hostile values stay values; faults start a run again."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from imgjax import jobs
from imgjax.errors import ConfigError
from imgjax.jobs import kubernetes, slurm, tpu

LAUNCH = pathlib.Path(__file__).parent.parent / 'launch'
HOSTILE = ['a b', "it's", '$(touch owned)', '`touch owned`', '"; touch owned #', 'ü%j&&|<>*?[a]~!',
           '{{ 7 * 7 }}', '$HOME', '- a: b', '\U0001f600']
SLURM = dict(
    config='configs/digits.py', study='', fields=[], workdir='/runs/a', cells='', name='imgjax',
    nodes=2, processes=1, gpus=0, time='', partition='', options=[], array='',
    array_field='hparams.seed', grace_seconds=120, heartbeat_seconds=30, max_requeues=5,
    python='python')
KUBERNETES = dict(
    config='configs/digits.py', fields=[], workdir='/runs/a', name='imgjax', nodes=4, chips=0,
    resource='nvidia.com/gpu', node_selector=[], image='registry/imgjax:1', directory='/imgjax',
    python='python', claim='runs', mount='/runs', grace_seconds=90, heartbeat_seconds=30,
    max_restarts=7)
TPU = dict(
    config='configs/digits.py', fields=[], workdir='/mnt/a', name='imgjax', project='', zone='z-a',
    accelerator='v5litepod-16', version='v2', spot=True, options=[], directory='imgjax',
    python='python', heartbeat_seconds=30, max_restarts=3, poll_seconds=1)


def slurm_script(**fields) -> str:
    return slurm.script((LAUNCH / 'slurm.sh').read_text(), **SLURM | fields)


def manifest(**fields) -> dict:
    text = kubernetes.jobset((LAUNCH / 'jobset.yaml').read_text(), **KUBERNETES | fields)
    return yaml.safe_load(text)


def tpu_script(**fields) -> str:
    return tpu.script((LAUNCH / 'tpu_vm.sh').read_text(), **TPU | fields)


def stand_in(folder: pathlib.Path, **programs: str) -> dict[str, str]:
    """Writes programs as bash and returns the environment that finds them first."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(f'#!/bin/bash\n{text}\n')
        (folder / name).chmod(0o755)
    return dict(os.environ, PATH=f'{folder}:{os.environ["PATH"]}')


def run_slurm_script(tmp_path, code, restarts=0, state='RUNNING', **fields):
    """Runs the batch script where srun ends with `code`; returns (exit code, what was called)."""
    calls = tmp_path / 'calls'
    calls.unlink(missing_ok=True)
    note = f'printf "%s\\n" "$(basename "$0") $*" >> {shlex.quote(str(calls))}\n'
    env = stand_in(tmp_path / 'bin', srun=f'{note}printf "<%s>\\n" "$@"; exit {code}',
                   scontrol=note, squeue=f'echo {state}', sleep='', scancel=note)
    workdir = str(tmp_path / fields.pop('folder', 'run'))
    os.makedirs(slurm.logs(workdir), exist_ok=True)
    done = subprocess.run(
        ['bash', '-c', slurm_script(workdir=workdir, **fields)], capture_output=True, text=True,
        timeout=60, cwd=tmp_path, env=env | {
            'SLURM_JOB_ID': '7', 'SLURM_JOB_NODELIST': 'n1', 'SLURM_ARRAY_TASK_ID': '3',
            'SLURM_RESTART_COUNT': str(restarts)})
    return done, calls.read_text()


@pytest.mark.parametrize('code', [1, 75, 76, 134, 137, 143])
def test_slurm_starts_again_after_a_fault(tmp_path, code):
    done, calls = run_slurm_script(tmp_path, code)
    assert 'scontrol requeue 7' in calls, done.stderr
    assert f'exit code {code}: back to the queue' in done.stderr


@pytest.mark.parametrize('code', [0, 2, 3, 4, 5])
def test_slurm_stops_where_starting_again_cannot_help(tmp_path, code):
    done, calls = run_slurm_script(tmp_path, code)
    assert 'scontrol' not in calls
    assert done.returncode == code
    assert ('done' if code == 0 else f'exit code {code}: starting again') in done.stderr


def test_slurm_ends_a_loop_of_failures(tmp_path):
    for _ in range(slurm.MAX_FAILURES - 1):
        assert 'requeue' in run_slurm_script(tmp_path, 134)[1]
    (tmp_path / 'run/checkpoints/20').mkdir(parents=True)  # before a start: it saves nothing itself
    done, calls = run_slurm_script(tmp_path, 134)
    assert 'requeue' not in calls and done.returncode == 134
    assert '3 starts in a row saved nothing' in done.stderr
    assert 'requeue' in run_slurm_script(tmp_path, 75)[1], 'a stop by request is no failure'
    assert 'requeue' in run_slurm_script(tmp_path, 134)[1], 'and is counted from anew'
    assert 'requeue' not in run_slurm_script(tmp_path, 75, restarts=5)[1]


def test_slurm_leaves_a_cancelled_job_alone(tmp_path):
    done, calls = run_slurm_script(tmp_path, 75, state='COMPLETING')
    assert 'requeue' not in calls and done.returncode == 75


@pytest.mark.parametrize('value', HOSTILE)
def test_slurm_hands_hostile_values_on_as_they_are(tmp_path, value):
    done, _ = run_slurm_script(tmp_path, 0, folder=value, name=value, config=value,
                               fields=[f'--config.init.weights={value}'], time=value, array='1-4',
                               options=[f'--comment={value}'])
    words = re.findall('<(.*)>', done.stdout)
    assert f'--config={value}' in words and f'--config.init.weights={value}' in words
    assert f'--workdir={tmp_path / value}' in words
    assert words[-2:] == [f'--workdir={tmp_path / value}/3', '--config.hparams.seed=3']
    assert not list(tmp_path.rglob('owned'))


@pytest.mark.parametrize('value', ['studies/a.py', *HOSTILE])
def test_slurm_gives_each_task_its_part_of_a_study(tmp_path, value):
    done, _ = run_slurm_script(tmp_path, 0, config='', study=value, cells=str(tmp_path / value),
                               array='0-7%4')
    words = re.findall('<(.*)>', done.stdout)
    assert 'launch.study' in words and f'--study={value}' in words
    assert f'--cells={tmp_path / value}' in words and words[-1] == '--part=3/8'
    assert not list(tmp_path.rglob('owned'))


def test_slurm_sees_that_a_study_gets_on(tmp_path):
    study = dict(config='', study='a.py', cells=str(tmp_path / 'the cells'))
    for place in range(slurm.MAX_FAILURES):
        (tmp_path / f'the cells/{place}/checkpoints/20').mkdir(parents=True)
        assert 'requeue' in run_slurm_script(
            tmp_path, f'$(touch "{tmp_path}/the cells/{place}/result.json"; echo 134)', **study)[1]
    for _ in range(slurm.MAX_FAILURES - 1):
        assert 'requeue' in run_slurm_script(tmp_path, 134, **study)[1]
    assert 'requeue' not in run_slurm_script(tmp_path, 134, **study)[1]


def test_sbatch_takes_its_lines_as_they_were_meant():
    lines = re.findall('^#SBATCH (.*)$', slurm_script(
        name='a b', time='1:00:00', partition='long', gpus=8, options=['--mem=3G'],
        workdir="/runs/100% $(x)'s"), re.M)
    # sbatch reads quotes and backslashes as a shell does.
    assert [shlex.split(line) for line in lines] == [[line] for line in (
        '--job-name=a b', '--nodes=2', '--ntasks-per-node=1', '--gpus-per-node=8',
        '--time=1:00:00', '--partition=long', '--mem=3G',
        "--output=/runs/100%% $(x)'s.slurm/%j.log", '--open-mode=append', '--requeue',
        '--signal=B:TERM@120')]


# The fields of jobset.x-k8s.io/v1alpha2 and of batch/v1 and core/v1 below it that a run needs:
# a dict names the fields that may be there, a list holds one of its items, a type is a value.
CONTAINER = {
    'name': str, 'image': str, 'workingDir': str, 'command': [str], 'args': [str],
    'env': [{'name': str, 'value': str, 'valueFrom': dict}],
    'resources': {'limits': dict, 'requests': dict},
    'ports': [{'containerPort': int, 'name': str, 'protocol': str, 'hostPort': int}],
    'volumeMounts': [{'name': str, 'mountPath': str, 'readOnly': bool, 'subPath': str}]}
POD = {
    'restartPolicy': str, 'terminationGracePeriodSeconds': int, 'nodeSelector': dict,
    'containers': [CONTAINER], 'initContainers': [CONTAINER], 'tolerations': [dict],
    'volumes': [{'name': str, 'persistentVolumeClaim': {'claimName': str, 'readOnly': bool},
                 'emptyDir': {'medium': str, 'sizeLimit': str}}]}
JOB = {
    'completionMode': str, 'completions': int, 'parallelism': int, 'backoffLimit': int,
    'activeDeadlineSeconds': int, 'suspend': bool, 'ttlSecondsAfterFinished': int,
    'podFailurePolicy': {'rules': [{
        'action': str, 'onExitCodes': {'containerName': str, 'operator': str, 'values': [int]},
        'onPodConditions': [dict]}]},
    'template': {'metadata': dict, 'spec': POD}}
JOBSET = {
    'apiVersion': str, 'kind': str, 'metadata': {'name': str, 'labels': dict, 'annotations': dict},
    'spec': {
        'replicatedJobs': [{'name': str, 'replicas': int, 'groupName': str,
                            'dependsOn': [dict],
                            'template': {'metadata': dict, 'spec': JOB}}],
        'network': {'enableDNSHostnames': bool, 'subdomain': str,
                    'publishNotReadyAddresses': bool},
        'failurePolicy': {
            'maxRestarts': int, 'restartStrategy': str,
            'rules': [{'name': str, 'action': str, 'onJobFailureReasons': [str],
                       'onJobFailureMessagePatterns': [str], 'targetReplicatedJobs': [str]}]},
        'successPolicy': dict, 'startupPolicy': dict, 'suspend': bool, 'coordinator': dict,
        'managedBy': str, 'ttlSecondsAfterFinished': int, 'volumeClaimPolicies': [dict]}}


def assert_fits(value, schema, place='') -> None:
    if isinstance(schema, type):
        assert type(value) is schema, f'{place}: {value!r}'
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, place
        for i, item in enumerate(value):
            assert_fits(item, schema[0], f'{place}[{i}]')
    else:
        assert set(value) <= set(schema), f'{place}: {set(value) - set(schema)} is no field'
        for name, item in value.items():
            assert_fits(item, schema[name], f'{place}.{name}')


@pytest.mark.parametrize('fields', [
    {}, {'chips': 8}, {'nodes': 1}, {'node_selector': ['cloud.google.com/x=y', 'a=true']}])
def test_a_jobset_has_the_published_fields(fields):
    found = manifest(**fields)
    assert_fits(found, JOBSET)
    assert (found['apiVersion'], found['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    job = found['spec']['replicatedJobs'][0]['template']['spec']
    pod = job['template']['spec']
    assert job['completionMode'] == 'Indexed' and pod['restartPolicy'] == 'Never'
    assert job['completions'] == job['parallelism'] == fields.get('nodes', 4)
    codes = job['podFailurePolicy']['rules'][0]
    assert codes['onExitCodes']['values'] == [2, 3, 4, 5] and codes['action'] == 'FailJob'
    policy = found['spec']['failurePolicy']
    assert policy['rules'][0]['action'] == 'FailJobSet'
    assert policy['rules'][0]['onJobFailureReasons'] == ['PodFailurePolicy']
    assert policy['restartStrategy'] == 'BlockingRecreate'
    # One without chips asks for none; labels are strings.
    container = pod['containers'][0]
    assert container.get('resources') == (
        {'limits': {'nvidia.com/gpu': 8}} if 'chips' in fields else None)
    assert pod.get('nodeSelector') == (
        {'cloud.google.com/x': 'y', 'a': 'true'} if 'node_selector' in fields else None)
    names = {volume['name'] for volume in pod['volumes']}
    assert {mount['name'] for mount in container['volumeMounts']} == names
    several = fields.get('nodes') != 1
    assert ('--coordinator_address=imgjax-run-0-0.imgjax:8476' in container['command']) == several
    assert ('--process_id=$(JOB_COMPLETION_INDEX)' in container['command']) == several


@pytest.mark.parametrize('value', HOSTILE)
def test_a_jobset_hands_hostile_values_on_as_they_are(value):
    found = manifest(config=value, workdir=f'/runs/{value}', image=value, directory=value)
    container = found['spec']['replicatedJobs'][0]['template']['spec']['template']['spec'][
        'containers'][0]
    assert (container['image'], container['workingDir']) == (value, value)
    given = [word.replace('$$', '$') for word in container['command']]
    assert f'--config={value}' in given and f'--workdir=/runs/{value}' in given
    assert not any('$' in word.replace('$$', '') for word in container['command'][:-1]), (
        'Kubernetes would fill this in')


GCLOUD = r'''
printf '%s\n' "$*" >> "$PLACE/calls"
case "$*" in
  *describe*) [ ! -e "$PLACE/offline" ] || {
      rm "$PLACE/offline"; echo 'ERROR: (gcloud) unreachable' >&2; exit 1; }
    cat "$PLACE/state" 2>/dev/null || { echo 'ERROR: (gcloud) NOT_FOUND: Resource' >&2; exit 1; } ;;
  *create*) echo ACTIVE > "$PLACE/state" ;;
  *delete*) rm -f "$PLACE/state" ;;
  *ssh*) n=$(($(cat "$PLACE/n" 2>/dev/null || echo 0) + 1)); echo $n > "$PLACE/n"
    codes=$(sed -n ${n}p "$PLACE/codes")
    for code in $codes; do echo "imgjax-exit-code $code"; done
    [ -n "$codes" ] || for word in "$@"; do
      case $word in --command=*) bash -c "${word#--command=}" ;; esac
    done
    [ "$n" != 1 ] || { echo SUSPENDED > "$PLACE/state"; touch "$PLACE/offline"; } ;;
esac
'''


def run_tpu_script(tmp_path, codes: str, **fields):
    env = stand_in(tmp_path / 'bin', gcloud=GCLOUD, sleep='') | {'PLACE': str(tmp_path)}
    (tmp_path / 'codes').write_text(codes)
    done = subprocess.run(['bash', '-c', tpu_script(**fields)], capture_output=True, text=True,
                          env=env, timeout=60, cwd=tmp_path)
    return done, (tmp_path / 'calls').read_text().splitlines()


@pytest.mark.parametrize('codes, expected, starts', [
    ('75 75\n0 0\n', 0, 2), ('134 137\n0 0\n', 0, 2), ('75 75\n3 75\n', 3, 2), ('4 4\n', 4, 1),
    ('1 134\n76 0\n0 0\n', 0, 3), ('75\n' * 9, 75, 4)])
def test_a_tpu_run_goes_on_after_a_preemption(tmp_path, codes, expected, starts):
    done, calls = run_tpu_script(tmp_path, codes)
    assert done.returncode == expected, done.stderr
    assert len([call for call in calls if ' ssh ' in call]) == starts
    created = [call for call in calls if ' create ' in call]
    assert len(created) == min(starts, 2), 'a suspended slice is made again'
    assert ('--node-id=imgjax --accelerator-type=v5litepod-16 --runtime-version=v2 --spot'
            in created[0])
    assert (' delete ' in calls[-1]) == (expected == 0), 'a finished run leaves no slice behind'


@pytest.mark.parametrize('state', ['', 'ACTIVE'])
def test_a_tpu_slice_that_gcloud_cannot_describe_is_not_made_again(state, tmp_path):
    """It is waited for: after the first ssh of each of these tests gcloud is offline once."""
    if state:
        (tmp_path / 'state').write_text(f'{state}\n')
    done, calls = run_tpu_script(tmp_path, '75 75\n0 0\n')
    assert done.returncode == 0 and 'unreachable' in done.stderr
    at = next(i for i, call in enumerate(calls) if ' ssh ' in call)
    assert ' describe ' in calls[at + 1] and ' describe ' in calls[at + 2]
    assert ' delete ' in calls[at + 3]


def test_a_gcloud_that_has_never_answered_ends_the_start(tmp_path):
    (tmp_path / 'offline').touch()
    done, calls = run_tpu_script(tmp_path, '0 0\n')
    assert done.returncode == 2 and 'unreachable' in done.stderr
    assert len(calls) == 1


def test_a_tpu_host_without_the_checkout_is_final(tmp_path):
    assert run_tpu_script(tmp_path, '', directory='/none')[0].returncode == 2


@pytest.mark.parametrize('value', HOSTILE)
def test_a_tpu_host_gets_hostile_values_as_they_are(tmp_path, value):
    (tmp_path / value).mkdir()
    show = tmp_path / 'show me'
    show.write_text('#!/bin/bash\nprintf "<%s>\\n" "$@" "$PWD" >&2')
    show.chmod(0o755)
    done, _ = run_tpu_script(tmp_path, '', config=value, workdir=value, python=str(show),
                             directory=str(tmp_path / value), options=[f'--labels={value}'])
    words = re.findall('<(.*)>', done.stderr)
    assert f'--config={value}' in words and f'--workdir={value}' in words
    assert words[-1] == str(tmp_path / value)
    assert not list(tmp_path.rglob('owned'))


@pytest.mark.parametrize('make, fields, complaint', [
    (slurm_script, {'name': 'a\nb'}, '--name: takes no line break'),
    (slurm_script, {'fields': ['--config.a=\x1b']}, '--overrides: takes no line break'),
    (slurm_script, {'config': ''}, '--config: missing'),
    (slurm_script, {'workdir': ''}, '--workdir: missing'),
    (slurm_script, {'workdir': 'a\\b'}, '--workdir: Slurm takes no backslash'),
    (slurm_script, {'array': '0-3;x'}, '--array: takes indices'),
    (slurm_script, {'study': 'a.py'}, '--study: in place of --config'),
    (slurm_script, {'study': 'a.py', 'config': '', 'array': '1-3'}, '--array: for a study takes'),
    (slurm_script, {'study': 'a.py', 'config': '', 'fields': ['--config.steps=1']},
     'a study file sets the fields of its arms'),
    (slurm_script, {'options': ['mem=3G']}, '--options: takes --NAME=VALUE'),
    (manifest, {'name': 'A b'}, '--name: takes lower-case'),
    (manifest, {'workdir': '/runs/../etc'}, '--workdir: takes a folder below --mount=/runs'),
    (manifest, {'image': ''}, '--image: missing'),
    (manifest, {'node_selector': ['a']}, '--node_selector: takes KEY=VALUE'),
    (tpu_script, {'zone': ''}, '--zone: missing')])
def test_wrong_values_are_one_line(make, fields, complaint):
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        make(**fields)


def test_overrides_are_those_of_the_config():
    words = ['x', '--config=a.py', '--config.a=1 2', '--workdir=w', '-config.b=2', '--nodes=2']
    assert jobs.overrides(words) == ['--config.a=1 2', '-config.b=2']
    with pytest.raises(ConfigError, match='--config.FIELD=VALUE'):
        jobs.overrides(['x', '--config.a', '1'])


def test_entry_points_write_what_they_say(launch, tmp_path):
    common = ('--config=tests/drills/config.py', '--config.steps=3')
    started = [
        launch('slurm', *common, f'--workdir={tmp_path}/run', '--dry_run'),
        launch('kubernetes', *common, '--workdir=/runs/a', '--image=i',
               f'--output={tmp_path}/set.yaml'),
        launch('tpu', *common, '--workdir=/mnt/a', '--zone=z', '--accelerator=v5litepod-16',
               f'--output={tmp_path}/tpu.sh')]
    said = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert '--config.steps=3' in said[0][0]
    assert not (tmp_path / 'run.slurm').exists()
    assert '--config.steps=3' in (tmp_path / 'tpu.sh').read_text()
    assert_fits(yaml.safe_load((tmp_path / 'set.yaml').read_text()), JOBSET)


@pytest.mark.parametrize('name, text', [
    ('jobset.yaml', 'apiVersion: v1\nkind: Secret\n'), ('tpu.sh', '#!/bin/bash\nrm x\n')])
def test_a_file_of_something_else_is_left_as_it_is(name, text, tmp_path):
    file = tmp_path / name
    file.write_text(text)
    run, template, fields = {'jobset.yaml': (kubernetes.run, 'jobset.yaml', KUBERNETES),
                             'tpu.sh': (tpu.run, 'tpu_vm.sh', TPU)}[name]

    def make():
        run((LAUNCH / template).read_text(), output=str(file), **fields)

    with pytest.raises(ConfigError, match=f'--output={file}: is there already, and launch'):
        make()
    assert file.read_text() == text
    file.unlink()
    make()
    first = file.read_text()
    file.write_text(f'{first}# more\n')
    make()  # over its own
    assert file.read_text() == first and os.listdir(tmp_path) == [name]


def test_slurm_writes_into_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'sbatch').write_text('#!/bin/sh\necho 7\n')
    (tmp_path / 'sbatch').chmod(0o755)
    template = (LAUNCH / 'slurm.sh').read_text()

    def run():
        return slurm.run(template, dry_run=False, **SLURM | {'workdir': '~/run/'})

    folder = tmp_path / 'run.slurm'
    folder.mkdir()
    (folder / 'notes.txt').write_text('mine')
    with pytest.raises(ConfigError, match="holds 'notes.txt', which launch.slurm did not"):
        run()
    (folder / 'notes.txt').rename(folder / 'slurm.sh')
    with pytest.raises(ConfigError, match='slurm.sh: is there already, and launch.slurm did not'):
        run()
    assert (folder / 'slurm.sh').read_text() == 'mine'
    (folder / 'slurm.sh').unlink()
    assert run() == run() == {'script': str(folder / 'slurm.sh'), 'job': 7}


def test_a_missing_config_is_one_line():
    done = subprocess.run([sys.executable, '-m', 'launch.slurm', '--workdir=/runs/x'],
                          cwd=LAUNCH.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, 'imgjax: --config: missing\n')
