"""What in a setup will keep a reload from working, told before it is needed: at start and by `rekeyd check`.

The rules: each thing that is looked for is a function of a `Scene`, complains with a rule name that stays the
same, and only ever warns: what can be read now can be served now. Where the answer is a guess about what a
tool will do at the next renewal it is given only on evidence. Must not know: what the files say.
"""

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import structlog

from rekeyd.reload.files import UnreadableError
from rekeyd.reload.folder import contents_of
from rekeyd.reload.mounts import Mount, mount_of, mounts_in
from rekeyd.reload.named import files_in, files_named_by, folder_named_by
from rekeyd.reload.outcome import part_of
from rekeyd.reload.trail import follow, survey
from rekeyd.settings import Settings, credentials_folder
from rekeyd.trust.generation import Finding, Severity

THAW = (
    "Name the real file, and give the service a group that may read it (`SupplementaryGroups=`); or, from "
    "systemd 260 on, put `RefreshOnReload=credentials` into the unit and have whoever renews it run "
    "`systemctl reload`"
)
MOUNTINFO = Path("/proc/self/mountinfo")
DEFAULT_ACL = "system.posix_acl_default"
RUN_CREDENTIALS = Path("/run/credentials")
_STAYS = re.compile(r"(^access\.pepper_file|key_passphrase_file)$")  # is not renewed; meant to come that way
_SECRET = re.compile(r"(key|privkey\.pem|key_passphrase_file)]?$")
_NUMBERED = re.compile(r"^(.*?)(\d+)(\.[^.]+)$")

log = structlog.get_logger()


@dataclass(frozen=True)
class Scene:
    """The files by dotted key, what is mounted, and as whom they are read. `environ` is the daemon's."""

    paths: Mapping[str, Path]
    mounts: tuple[Mount, ...]
    environ: Mapping[str, str]
    user: int

    @cached_property
    def trails(self) -> Mapping[str, tuple[Path, ...]]:
        """Each symbolic link on the way to a file, then the file itself."""
        return {key: tuple(follow(path)) for key, path in self.paths.items()}


Complaint = tuple[str, str, str]
"""The dotted key of the file that it is about, what is wrong, and the remedy."""


def diagnose(settings: Settings, environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """What can't reload, of the files that the settings name. Raises nothing; blocks as file systems do."""
    return complaints(Scene(_files_of(settings), _mounts(), environ, os.geteuid()))


def complaints(scene: Scene) -> tuple[Finding, ...]:
    """What all rules say of a scene."""
    return tuple(
        Finding(rule, Severity.WARN, part_of(key), f"{key}: {message}", fix)
        for rule, look in RULES.items()
        for key, message, fix in look(scene)
    )


def tell(findings: tuple[Finding, ...]) -> None:
    """One warning in the log for each."""
    for finding in findings:
        log.warning(
            "setup.doubtful",
            rule=finding.rule,
            part=finding.part.value,
            message=finding.message,
            fix=finding.fix,
        )


def _files_of(settings: Settings) -> dict[str, Path]:
    files, folder = files_named_by(settings), folder_named_by(settings)
    with contextlib.suppress(UnreadableError):
        files |= files_in(contents_of(folder)) if folder else {}
    return files


def _mounts() -> tuple[Mount, ...]:
    try:
        return mounts_in(MOUNTINFO.read_text(errors="surrogateescape"))
    except OSError:
        return ()


def _pinned(scene: Scene) -> Iterator[Complaint]:
    """kubernetes#50345: a bind mount shows the inode that was there when it was made."""
    points = {mount.point: mount for mount in scene.mounts}
    for key, trail in scene.trails.items():
        mount = next((points[hop] for hop in trail if hop in points), None)
        under = mount_of(trail[-1], scene.mounts)
        if mount is not None:
            what = "a mount of this one file (a bind mount, or a volume's subPath)"
        elif under is not None and under.is_dated:
            mount, what = under, f"on {under.point}, a mount of one dated folder of a volume (a subPath)"
        else:
            continue
        already = ", and it has been replaced there already" if mount.is_deleted else ""
        yield (
            key,
            f"{scene.paths[key]} is {what}: a file that replaces it outside is never seen here{already}",
            "Mount the folder or the whole volume instead, and name the file in it",
        )


def _frozen_credential(scene: Scene) -> Iterator[Complaint]:
    """systemd#21099: credentials are copied when the service starts; since 260 they may be copied anew."""
    folders = (RUN_CREDENTIALS, credentials_folder(scene.environ))
    for key, path in scene.paths.items():
        if any(path.is_relative_to(folder) for folder in folders) and not _STAYS.search(key):
            yield (
                key,
                f"{path} is a credential, which systemd up to 259 copies once, when the service starts",
                THAW,
            )


def _key_access_at_risk(scene: Scene) -> Iterator[Complaint]:
    """certbot#5257: the next key is another file, with the owner and mode that its maker gives it."""
    for key, trail in scene.trails.items():
        if not _SECRET.search(key) or scene.user == 0 or any(hop.name == "..data" for hop in trail):
            continue
        file = trail[-1]
        try:
            lost = _access_is_of_this_file_alone(file, scene.user)
        except OSError:
            continue
        if lost:
            yield key, *_at_risk(file, scene.user, lost)


def _at_risk(file: Path, user: int, evidence: str) -> tuple[str, str]:
    message = (
        f"uid {user} may read {file} only because of this file's own group or access list{evidence}: "
        "the file that replaces it may have others"
    )
    fix = (
        f"Make it last: `setfacl -d -m u:{user}:r {file.parent}`, or `chgrp` and `chmod g+s` on that folder, "
        "or a hook of the renewal that sets them"
    )
    return message, fix


def _access_is_of_this_file_alone(file: Path, user: int) -> str:
    """Empty where it is not, or where nothing can be said; else the evidence, to be put into the sentence."""
    status = file.stat()
    through_group = not status.st_mode & stat.S_IROTH and status.st_mode & stat.S_IRGRP
    if status.st_uid == user or not through_group or not os.access(file, os.R_OK, effective_ids=True):
        return ""
    before = [other for other in _earlier_versions(file) if other != file]
    if before:
        shut = [other.name for other in before if not os.access(other, os.R_OK, effective_ids=True)]
        return f" (it may not read {', '.join(sorted(shut))})" if shut else ""
    folder = file.parent.stat()
    inherited = folder.st_mode & stat.S_ISGID and folder.st_gid == status.st_gid
    return "" if inherited or DEFAULT_ACL in os.listxattr(file.parent) else " (its folder passes on neither)"


def _earlier_versions(file: Path) -> list[Path]:
    """`privkey1.pem` beside `privkey2.pem`, as certbot keeps them."""
    if (numbered := _NUMBERED.match(file.name)) is None:
        return []
    alike = [(other, _NUMBERED.match(other.name)) for other in file.parent.iterdir()]
    return [other for other, parts in alike if parts and parts.group(1, 3) == numbered.group(1, 3)]


def _unwatchable(scene: Scene) -> Iterator[Complaint]:
    """inotify_add_watch(2) wants the right to read the directory."""
    for key, folder in _first_key_of_each_folder(scene):
        if not os.access(folder, os.R_OK, effective_ids=True):
            yield (
                key,
                f"the folder {folder} can't be watched by uid {scene.user}, so it is polled twice a second",
                f"Let that user read it (`chmod +r` or `setfacl -m u:{scene.user}:rx {folder}`)",
            )


def _no_events(scene: Scene) -> Iterator[Complaint]:
    """inotify(7): changes that another machine, or a file system in user space, makes aren't told."""
    for key, folder in _first_key_of_each_folder(scene):
        mount = mount_of(folder, scene.mounts)
        if mount is not None and mount.may_lack_events:
            yield (
                key,
                f"the folder {folder} is on {mount.kind} ({mount.point}), where events may not come",
                "Nothing need be done: it is polled twice a second, so a change is served a little later",
            )


def _first_key_of_each_folder(scene: Scene) -> Iterator[tuple[str, Path]]:
    told: set[Path] = set()
    for key, path in scene.paths.items():
        for folder in survey([path]).directories.keys() - told:
            told.add(folder)
            yield key, folder


RULES: Mapping[str, Callable[[Scene], Iterator[Complaint]]] = {
    "pinned_file": _pinned,
    "frozen_credential": _frozen_credential,
    "key_access_at_risk": _key_access_at_risk,
    "unwatchable_folder": _unwatchable,
    "no_events": _no_events,
}
