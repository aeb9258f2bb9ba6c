python -m examples.digits.train --threads 1 tune --dataset digits --method lora --bit 32 --dim 8 --r_layer 6 --scale 1 --lr 4e-3 --epochs 20 --batch-size 16 --val-every 4
