#!/bin/bash
# Does what the Dockerfile does where there is no Docker: its COPY and `pip install` lines, in a folder
# and a virtual environment of their own; then trains with what was installed. Build arguments are
# environment variables here:
#
#   EXTRAS=polybeast deploy/try_container.sh
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export PATH=$work/venv/bin:$PATH
mkdir "$work/image"
cd "$work/image"

# The first stage, an instruction a line.
sed -n '/^FROM.*AS kuberay/q; p' "$root/Dockerfile" | sed -e ':a' -e '/\\$/N; s/\\\n//; ta' |
    grep -v -e '^#' -e '^$' > "$work/instructions"
while read -r name text; do
    case "$name $text" in
        ARG*)
            variable=${text%%=*}
            export "$variable=${!variable:-${text#*=}}" ;;
        COPY*)
            read -ra parts <<< "$text"
            for source in "${parts[@]:0:${#parts[@]}-1}"; do
                cp -r "$root/$source" "./${parts[-1]}"
            done ;;
        "RUN "*"pip install"*) echo "+ $text" && sh -c "$text" ;;
        ?*) echo "left out: $name $text" ;;
    esac
done < "$work/instructions"

cd "$work"
torchbeast --version
torchbeast train impala --env CartPole-v1 --total_steps 2000 --savedir "$work/logs" --xpid tried
du -sh "$work/venv"
