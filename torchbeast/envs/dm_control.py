"""The DeepMind Control Suite (arXiv:1801.00690), in Gymnasium's shape."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, ReshapeObservation

ENTRY_POINT = "torchbeast.envs.dm_control:make"
# A table, as importing the suite to read its own takes half a second.
TASKS = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse two_poles three_poles",
    "cheetah": "run",
    "dog": "stand walk trot run fetch",
    "finger": "spin turn_easy turn_hard",
    "fish": "upright swim",
    "hopper": "stand hop",
    "humanoid": "stand walk run run_pure_state",
    "humanoid_CMU": "stand walk run",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "walk run escape fetch",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer6 swimmer15",
    "walker": "stand walk run",
}
CAMERAS = {"quadruped": 2}  # its camera 0 stands too far away; all others are seen by theirs
UNLIMITED = 1e10  # how MuJoCo writes that an actuator has no bound
PICTURE = 480  # pixels: the height of the models' buffers for drawing
NO_OPENGL = (
    "OpenGL, to draw it for render() or pixels=true: {error!r}, with MUJOCO_GL={backend}; where "
    "there is no screen install EGL (apt-get install libegl1) or OSMesa (apt-get install "
    "libosmesa6, and set MUJOCO_GL=osmesa)"
)


class DMControl(gymnasium.Env[Any, Any]):
    """One task of the suite: observations are a Dict of float32 vectors, actions a float32 Box.

    The end of the time limit truncates; an episode terminates only where dm_control's discount is
    0, which of all tasks is so in ``lqr``, the only ones without a time limit. The seed of
    ``reset`` draws what ``suite.load(task_kwargs={"random": seed})`` draws. What a task draws
    when it is made (the springs of ``lqr``) is always the same.

    Args:
        domain: such as ``cheetah``.
        task: such as ``run``.
        action_repeat: how often an action is done; the rewards are summed.
        camera: number or name of what ``draw`` sees by; None takes the one that sees all.
        render_mode: ``rgb_array`` or None.
        task_kwargs: arguments of dm_control's function for the task, such as ``time_limit``.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        action_repeat: int = 1,
        camera: int | str | None = None,
        render_mode: str | None = None,
        **task_kwargs: Any,
    ) -> None:
        if action_repeat < 1:
            raise ValueError(f"expected action_repeat of at least 1, got {action_repeat}")
        self._env = _suite().load(domain, task, {"random": 0, **task_kwargs})
        self._random = self._env.task.random
        self._random.seed()  # until reset says otherwise, no two environments draw the same
        self._repeat = action_repeat
        self._camera = CAMERAS.get(domain, 0) if camera is None else camera
        seconds = self._env.control_timestep() * action_repeat
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / seconds)}
        self.render_mode = render_mode
        self.observation_space = spaces.Dict(
            {
                key: spaces.Box(-np.inf, np.inf, spec.shape or (1,), np.float32)
                for key, spec in self._env.observation_spec().items()
            }
        )
        action = self._env.action_spec()
        low = np.where(action.minimum <= -UNLIMITED, -np.inf, action.minimum)
        high = np.where(action.maximum >= UNLIMITED, np.inf, action.maximum)
        self.action_space = spaces.Box(
            low.astype(np.float32), high.astype(np.float32), action.shape, np.float32
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the first observation of an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed % 2**32)
        return self._shown(self._env.reset()), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Returns what the action leads to."""
        reward = 0.0
        for _ in range(self._repeat):
            time_step = self._env.step(action)
            reward += float(time_step.reward)
            if time_step.last():
                break
        terminated = bool(time_step.last() and time_step.discount == 0)
        truncated = bool(time_step.last() and not terminated)
        return self._shown(time_step), reward, terminated, truncated, {}

    def draw(self, height: int, width: int) -> np.ndarray[Any, Any]:
        """Returns the picture [H, W, 3] that the camera sees.

        Raises:
            ValueError: there is no such camera, or the picture is larger than the model's buffer.
            gymnasium.error.DependencyNotInstalled: there is no OpenGL to draw with.
        """
        try:
            picture = self._env.physics.render(height, width, camera_id=self._camera)
        except ValueError:
            raise
        except Exception as error:  # every library of OpenGL has its own
            backend = os.environ.get("MUJOCO_GL", "(not set)")
            message = NO_OPENGL.format(error=error, backend=backend)
            raise gymnasium.error.DependencyNotInstalled(message) from error
        return np.asarray(picture)

    def render(self) -> Any:
        """Returns a picture [H, W, 3] of what is, or None without ``render_mode``."""
        return self.draw(PICTURE, PICTURE) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Frees the simulation and what it draws with."""
        self._env.physics.free()

    def _shown(self, time_step: Any) -> dict[str, Any]:
        return {
            key: np.atleast_1d(np.asarray(value, np.float32))
            for key, value in time_step.observation.items()
        }


class Pixels(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A task seen by its camera: bytes [3, size, size] in place of what dm_control shows."""

    def __init__(self, env: DMControl, size: int) -> None:
        super().__init__(env)
        self._task = env
        self._size = size
        self.observation_space = spaces.Box(0, 255, (3, size, size), np.uint8)

    def observation(self, observation: Any) -> np.ndarray[Any, Any]:
        """Returns the picture of what ``observation`` is of."""
        return np.moveaxis(self._task.draw(self._size, self._size), -1, 0)


def make(
    domain: str,
    task: str,
    *,
    pixels: bool = False,
    size: int = 84,
    frames: int = 3,
    **kwargs: Any,
) -> gymnasium.Env[Any, Any]:
    """Returns a ``DMControl``, or with ``pixels`` one that shows bytes [3 * frames, size, size].

    Those are the newest ``frames`` pictures, oldest first, one channel after the other as
    networks take them (arXiv:2004.13649); an episode's first picture is repeated.

    Args:
        domain: such as ``cheetah``.
        task: such as ``run``.
        pixels: show pictures; ``size`` and ``frames`` count with them only.
        size: their height and width.
        frames: how many.
        kwargs: arguments of ``DMControl``.

    Raises:
        ValueError: one of the numbers is too small, or ``size`` larger than can be drawn.
        gymnasium.error.DependencyNotInstalled: it is to be drawn, and there is no OpenGL.
    """
    if size < 1 or frames < 1:
        raise ValueError(f"expected size and frames of at least 1, got {size} and {frames}")
    env = DMControl(domain, task, **kwargs)
    if pixels or env.render_mode is not None:
        env.draw(size, size)  # what is missing shows now, not in the first step
    if not pixels:
        return env
    # Its stacks lie along an axis of their own, [frames, 3, H, W], which no network takes. A
    # replay would keep each frame of such a stack once; of channels it keeps all.
    stack = FrameStackObservation(Pixels(env, size), frames)
    return ReshapeObservation(stack, (3 * frames, size, size))


def register() -> None:
    """Makes ``dm_control/cheetah-run-v0`` and all others known to Gymnasium."""
    for domain, tasks in TASKS.items():
        for task in tasks.split():
            name = f"dm_control/{domain}-{task}-v0"
            if name not in gymnasium.registry:
                kwargs = {"domain": domain, "task": task}
                gymnasium.register(name, entry_point=ENTRY_POINT, kwargs=kwargs)


@functools.cache
def _suite() -> Any:
    """Returns dm_control's suite, fit for the installed MuJoCo and for a machine without screen."""
    import mujoco

    say = mujoco.get_mju_user_warning()
    _choose_opengl()
    from dm_control import suite
    from dm_control.mujoco.wrapper.mjbindings import sizes

    # dm_control looks up every field of the MuJoCo it was made for, and each version of MuJoCo
    # drops some: 1.0.50 asks for nine of deformable bodies that 4.0.0 has not. The suite uses none.
    for name, kind in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
        fields = sizes.array_sizes[name]
        for field in [field for field in fields if not hasattr(kind, field)]:
            del fields[field]
    if say is not None:
        mujoco.set_mju_user_warning(say)  # dm_control put its own, which repeats itself
    return suite


def _choose_opengl() -> None:
    """Imports what dm_control draws with; where nothing works, so that only drawing fails."""
    with warnings.catch_warnings():
        # GLFW only warns that there is no screen. As an error dm_control goes on to EGL.
        warnings.filterwarnings("error", category=UserWarning, module="glfw")
        try:
            importlib.import_module("dm_control._render")
        except Exception:
            if "MUJOCO_GL" in os.environ:
                raise
            os.environ["MUJOCO_GL"] = "disabled"
            importlib.import_module("dm_control._render")
            del os.environ["MUJOCO_GL"]
