#!/usr/bin/env bash
# Installs what tests/cluster needs, a real SLURM and what it stands on, from the packages of Debian or Ubuntu.
# Does nothing where it is there; fails, and says why, where it cannot be installed.
set -euo pipefail

programs=(munged mariadbd slurmdbd slurmctld slurmd sbatch)
packages=(munge mariadb-server-core slurmdbd slurmctld slurmd slurm-client)

PATH=$PATH:/usr/sbin:/sbin
missing=0
for program in "${programs[@]}"; do command -v "$program" >/dev/null || missing=1; done
[ $missing -eq 0 ] && exit 0

cannot() { echo "SLURM cannot be installed: $1 (packages: ${packages[*]})" >&2; exit 1; }
command -v apt-get >/dev/null || cannot "no apt-get here"
[ "$(id -u)" -eq 0 ] || cannot "that needs root"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || cannot "the package index cannot be reached"
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || cannot "apt-get failed"
